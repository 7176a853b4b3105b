//! Folding, ranking, and what a text leads to in the example ward.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::hub::registry::{Registry, RegistryFile};

fn history(files: &[(&str, &str)]) -> Arc<History> {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(dir.path()).unwrap();
    for (text, time) in files {
        let file = RegistryFile::parse(Path::new("ward.toml"), text).unwrap();
        registry.import(&file, time.parse().unwrap()).unwrap();
    }
    registry.history()
}

fn ward() -> (Names, Arc<History>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/ward.toml");
    let history = history(&[(&std::fs::read_to_string(path).unwrap(), "2026-02-01T00:00:00Z")]);
    (Names::of(&history), history)
}

#[test]
fn names_fold_to_plain_words() {
    let table = [
        ("Phường Tân Hưng", "phuong tan hung"),
        ("PHƯỜNG TÂN HƯNG", "phuong tan hung"),
        ("Phu\u{31b}o\u{31b}\u{300}ng Ta\u{302}n Hu\u{31b}ng", "phuong tan hung"),
        ("P. Tân Hưng", "phuong tan hung"),
        ("p tan hung", "phuong tan hung"),
        ("P.Tân Hưng", "phuong tan hung"),
        ("P7", "phuong 7"),
        ("F.7", "phuong 7"),
        ("KP1", "khu pho 1"),
        ("KP. 1", "khu pho 1"),
        ("kp 1, p. tân hưng", "khu pho 1 phuong tan hung"),
        ("TX. Dĩ An", "thi xa di an"),
        ("TP.HCM", "thanh pho hcm"),
        ("Q.5", "quan 5"),
        ("H. Nhà Bè", "huyen nha be"),
        ("X. Bình Hưng", "xa binh hung"),
        ("TT. Tân Túc", "thi tran tan tuc"),
        ("14 Đ. Hoa Phượng", "14 duong hoa phuong"),
        ("Đường Đặng Văn Bi", "duong dang van bi"),
        ("Lô D", "lo d"),
        ("14/7A Bờ Kênh", "14 7a bo kenh"),
        ("Ngã ba Hoa Phượng – Bờ Kênh", "nga ba hoa phuong bo kenh"),
        ("", ""),
        (" ,;. ", ""),
    ];
    for (text, expected) in table {
        assert_eq!(fold(text).join(" "), expected, "{text}");
    }
}

#[test]
fn one_wrong_letter_is_forgiven() {
    let table = [
        ("phuong", "phung", true),
        ("phuong", "phuongg", true),
        ("phuong", "phuogn", true),
        ("phuong", "phuang", true),
        ("phuong", "phang", false),
        ("kenh", "kenh", true),
        ("kenh", "k", false),
    ];
    for (a, b, expected) in table {
        assert_eq!((differs_by_one(a, b), differs_by_one(b, a)), (expected, expected), "{a} {b}");
    }
}

#[test]
fn typing_suggests_the_best_first() {
    let (names, _) = ward();
    let table = [
        ("tan hung", "tan-hung"),
        ("P. Tân Hưng", "tan-hung"),
        ("Ta\u{302}n Hu\u{31b}ng", "tan-hung"),
        ("tan quy dong", "tan-hung"),
        ("KP1", "khu-pho-1"),
        ("kp 2", "khu-pho-2"),
        ("to dan pho 5", "to-5"),
        ("cam-03", "cam-03"),
        ("14 hoa phuong", "hoa-phuong-14"),
        ("14 đường Hoa Phượng, KP1", "hoa-phuong-14"),
        ("mam non sen hong", "hoa-phuong-88"),
        ("mam non sen hogn", "hoa-phuong-88"),
        ("cho bo ke", "bo-kenh-33"),
        ("kenh cho", "bo-kenh-33"),
        ("tru so", "tru-so"),
    ];
    for (text, expected) in table {
        let found = names.suggest(text, 5);
        assert_eq!(found.first().map(|s| s.id.as_str()), Some(expected), "{text}: {found:#?}");
    }
    let former = &names.suggest("tân quy đông", 1)[0];
    assert_eq!(former.former_name.as_deref(), Some("Phường Tân Quy Đông"));
    assert_eq!(former.name, "Phường Tân Hưng");
    assert!(former.former_until.is_some());
    let block = &names.suggest("tổ dân phố 5", 1)[0];
    assert_eq!(block.context, "Khu phố 2, Phường Tân Hưng");
    let pasted = &names.suggest("10.7405, 106.6953", 3)[0];
    assert_eq!((pasted.kind, pasted.id.as_str()), (NameKind::Coordinates, "10.740500,106.695300"));
    assert!(names.suggest("xyz quốc lộ", 5).is_empty() && names.suggest("", 5).is_empty());
    assert_eq!(names.suggest("hoa phuong", 3).len(), 3);
}

#[test]
fn a_text_names_one_point_or_says_which() {
    let (names, history) = ward();
    let point = |id: &str| history.site(&crate::model::SiteId::new(id).unwrap()).unwrap().point;
    let table = [
        ("14 Hoa Phượng", Ok("hoa-phuong-14")),
        ("14 đường Hoa Phượng", Ok("hoa-phuong-14")),
        ("Chợ Bờ Kênh", Ok("bo-kenh-33")),
        ("cam-03", Ok("hoa-phuong-52")),
        ("Cầu Bờ Kênh", Ok("bo-kenh-60")),
        ("1 Hoa Phượng", Err("near to it are")),
        ("Phường Tân Hưng", Err("send it as `area`")),
        ("đường Lê Lợi", Err("no place has this name")),
        ("https://maps.app.goo.gl/x", Err("paste the long address")),
    ];
    for (text, expected) in table {
        match (names.locate(text), expected) {
            (Ok(found), Ok(id)) => assert!(distance_m(found.point, point(id)) < 1.0, "{text}: {found:?}"),
            (Err(error), Err(part)) if error.contains(part) => {}
            (Err(error), Err("near to it are")) if error.contains("no place") => {}
            (found, _) => panic!("{text}: {found:?}"),
        }
    }
    let pasted = names.locate("106.6953, 10.7405").unwrap();
    assert_eq!((pasted.point.lat, pasted.name), (10.7405, None));
    assert!(pasted.note.is_some());
}

#[test]
fn an_area_is_found_by_each_name_it_ever_had() {
    let old = r#"
        [[area]]
        id = "ward-a"
        name = "Phường An Lạc"
        kind = "ward"
        [[area]]
        id = "ward-b"
        name = "Phường Bình Trị"
        kind = "ward"
        [[area]]
        id = "kp1-a"
        name = "Khu phố 1"
        kind = "block"
        parent = "ward-a"
        [[area]]
        id = "kp1-b"
        name = "Khu phố 1"
        kind = "block"
        parent = "ward-b"
    "#;
    let renamed = old.replace("Phường An Lạc", "Phường An Lạc Mới");
    let history = history(&[(old, "2026-02-01T00:00:00Z"), (&renamed, "2026-03-01T00:00:00Z")]);
    let names = Names::of(&history);
    let table = [
        ("ward-a", Ok(("ward-a", None))),
        ("An Lạc Mới", Ok(("ward-a", None))),
        ("P. An Lạc", Ok(("ward-a", Some("Phường An Lạc")))),
        ("binh tri", Ok(("ward-b", None))),
        (
            "KP1",
            Err(
                "several areas have this name, send an id: Khu phố 1, Phường An Lạc Mới (kp1-a); Khu phố 1, Phường Bình Trị (kp1-b)",
            ),
        ),
        ("Bình", Err("near to it are Phường Bình Trị (ward-b)")),
        ("Chợ Lớn", Err("there is no such area")),
    ];
    for (text, expected) in table {
        match (names.area(text, &history), expected) {
            (Ok((area, former)), Ok((id, name))) => {
                assert_eq!((area.id.as_str(), former.as_deref()), (id, name), "{text}");
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }
}
