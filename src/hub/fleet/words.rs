//! What causes and troubles are called, by people of the ward and in English.
//!
//! Owns the words; whoever shows a cause or a trouble as text takes them from here. Pure.

use super::cause::CauseKind;
use crate::model::Trouble;

/// One thing's name in the API and in figures, and its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words {
    pub name: &'static str,
    pub vi: &'static str,
    pub en: &'static str,
}

impl Words {
    const fn new(name: &'static str, vi: &'static str, en: &'static str) -> Self {
        Self { name, vi, en }
    }
}

pub fn of_cause(kind: CauseKind) -> Words {
    match kind {
        CauseKind::Hub => Words::new("hub", "máy chủ", "hub"),
        CauseKind::Area => Words::new("area", "địa bàn", "area"),
        CauseKind::Site => Words::new("site", "điểm lắp đặt", "site"),
        CauseKind::Box => Words::new("box", "hộp biên", "box"),
        CauseKind::CamerasOf => Words::new("cameras_of", "các camera của hộp", "cameras of box"),
        CauseKind::GatewayOf => Words::new("gateway_of", "bộ thu của hộp", "gateway of box"),
        CauseKind::Cabinet => Words::new("cabinet", "tủ đèn", "cabinet"),
        CauseKind::Device => Words::new("device", "thiết bị", "device"),
    }
}

pub fn of_trouble(trouble: Trouble) -> Words {
    match trouble {
        Trouble::BoxSilent => Words::new("box_silent", "hộp biên im lặng", "box silent"),
        Trouble::Silent => Words::new("silent", "không còn báo", "silent"),
        Trouble::CameraUnreachable => {
            Words::new("camera_unreachable", "mất kết nối camera", "camera unreachable")
        }
        Trouble::StreamBroken => Words::new("stream_broken", "luồng hình hỏng", "stream broken"),
        Trouble::DiskFull => Words::new("disk_full", "đĩa đầy", "disk full"),
        Trouble::DiskFailed => Words::new("disk_failed", "đĩa hỏng", "disk failed"),
        Trouble::PausedByOwner => Words::new("paused_by_owner", "chủ máy tạm dừng", "paused by owner"),
        Trouble::SelfTestFailed => {
            Words::new("self_test_failed", "không đọc lại được hình", "footage can't be read back")
        }
        Trouble::PictureDark => Words::new("picture_dark", "hình quá tối", "picture dark"),
        Trouble::PictureCovered => Words::new("picture_covered", "ống kính bị che", "lens covered"),
        Trouble::PictureBlurred => Words::new("picture_blurred", "hình mờ", "picture blurred"),
        Trouble::PictureFrozen => Words::new("picture_frozen", "hình đứng", "picture frozen"),
        Trouble::PictureMoved => Words::new("picture_moved", "camera bị xoay", "camera turned"),
        Trouble::FewPictures => Words::new("few_pictures", "ít khung hình", "few pictures"),
        Trouble::PacketsLost => Words::new("packets_lost", "mất gói tin", "packets lost"),
        Trouble::ClockOff => Words::new("clock_off", "sai giờ", "clock off"),
        Trouble::RingShort => Words::new("ring_short", "vùng ghi vòng quá ngắn", "ring too short"),
        Trouble::MotionBlind => Words::new("motion_blind", "không dò chuyển động", "motion not looked for"),
        Trouble::CabinetUnreachable => {
            Words::new("cabinet_unreachable", "mất kết nối tủ đèn", "cabinet unreachable")
        }
        Trouble::CabinetFault => Words::new("cabinet_fault", "tủ đèn báo lỗi", "cabinet fault"),
        Trouble::SupplyLoss => Words::new("supply_loss", "mất điện nhánh đèn", "supply loss"),
        Trouble::LampFailure => Words::new("lamp_failure", "đèn hỏng", "lamp failure"),
        Trouble::OnWhenOff => Words::new("on_when_off", "tắt mà vẫn có điện", "power while off"),
        Trouble::OnByDay => Words::new("on_by_day", "đèn sáng ban ngày", "on by day"),
        Trouble::OffByNight => Words::new("off_by_night", "đèn tắt ban đêm", "off by night"),
        Trouble::Forced => Words::new("forced", "bị cạy", "forced"),
        Trouble::BatteryLow => Words::new("battery_low", "pin yếu", "battery low"),
        Trouble::DiskWorn => Words::new("disk_worn", "đĩa mòn", "disk worn"),
        Trouble::Hot => Words::new("hot", "quá nóng", "hot"),
        Trouble::UnderVoltage => Words::new("under_voltage", "điện áp thấp", "under-voltage"),
        Trouble::Restarts => Words::new("restarts", "khởi động lại liên tục", "restarts again and again"),
    }
}

pub fn trouble_name(trouble: Trouble) -> &'static str {
    of_trouble(trouble).name
}

/// The words of a cause's kind or a trouble, by its name.
pub fn of_name(name: &str) -> Option<Words> {
    let causes = CauseKind::ALL.into_iter().map(of_cause);
    causes.chain(Trouble::ALL.into_iter().map(of_trouble)).find(|words| words.name == name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_name_is_the_one_that_is_written_elsewhere() {
        for trouble in Trouble::ALL {
            assert_eq!(json!(trouble), json!(trouble_name(trouble)));
        }
        for kind in CauseKind::ALL {
            assert_eq!((json!(kind), kind.name()), (json!(of_cause(kind).name), of_cause(kind).name));
        }
    }
}
