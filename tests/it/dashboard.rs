//! The Grafana dashboard, made from the list of the hub's figures: each has a panel, and none is shown that the hub does
//! not have (`alerts.rs` compares with a real hub). `deploy/grafana/camnet.json` is its committed copy.

use serde_json::{Value, json};

use crate::world::root;

/// How a figure is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    Gauge,
    /// A counter's growth in a second.
    Rate,
    /// A histogram's median and 99th percentile.
    Quantiles,
    /// How long ago a time was, at most.
    Age,
    /// The series of now, as a table.
    Table,
    /// As [`Shape::Table`], a time as how long ago it was.
    AgeTable,
    /// Of many series the highest or lowest, or the oldest time.
    Highest,
    Lowest,
    Oldest,
}

/// One figure of the hub.
pub struct Figure {
    pub metric: &'static str,
    pub shape: Shape,
    /// Labels that stay apart.
    by: &'static [&'static str],
    /// Grafana's name of it.
    unit: &'static str,
    vi: &'static str,
    en: &'static str,
    /// A hub of which nobody asked such a thing has no series of it.
    pub is_rare: bool,
}

const fn figure(
    metric: &'static str,
    shape: Shape,
    by: &'static [&'static str],
    unit: &'static str,
    (vi, en): (&'static str, &'static str),
) -> Figure {
    Figure { metric, shape, by, unit, vi, en, is_rare: false }
}

const fn rare(figure: Figure) -> Figure {
    Figure { is_rare: true, ..figure }
}

use Shape::*;

/// Every figure of the hub, in the order of the dashboard.
pub const ROWS: &[(&str, &[Figure])] = &[
    (
        "Sự cố · Incidents",
        &[
            figure(
                "camnet_fleet_incident_devices",
                Table,
                &["cause", "id", "trouble", "severity"],
                "short",
                ("Sự cố đang diễn ra: số thiết bị", "Incidents that go on: devices"),
            ),
            figure(
                "camnet_fleet_incident_since_timestamp_seconds",
                AgeTable,
                &["cause", "id", "trouble"],
                "s",
                ("Sự cố đã kéo dài", "Incidents that go on: how long"),
            ),
            figure("camnet_fleet_incidents", Gauge, &["cause"], "short", ("Số sự cố", "Incidents by cause")),
            figure(
                "camnet_fleet_incidents_unlisted",
                Gauge,
                &[],
                "short",
                ("Sự cố không liệt kê", "Incidents not listed"),
            ),
        ],
    ),
    (
        "Thiết bị · Devices",
        &[
            figure(
                "camnet_fleet_devices",
                Gauge,
                &["kind", "state"],
                "short",
                ("Thiết bị theo tình trạng", "Devices by state"),
            ),
            figure(
                "camnet_fleet_troubled_devices",
                Gauge,
                &["trouble"],
                "short",
                ("Thiết bị theo lỗi", "Devices by trouble"),
            ),
            figure(
                "camnet_fleet_boxes",
                Gauge,
                &["state"],
                "short",
                ("Hộp biên theo tình trạng", "Boxes by state"),
            ),
            figure(
                "camnet_fleet_events_owed",
                Gauge,
                &[],
                "short",
                ("Sự kiện chưa có biên nhận", "Events without a receipt"),
            ),
            figure(
                "camnet_fleet_receipt_slowest_seconds",
                Gauge,
                &[],
                "s",
                ("Biên nhận chậm nhất", "Slowest receipt"),
            ),
            figure(
                "camnet_fleet_judged_timestamp_seconds",
                Age,
                &[],
                "s",
                ("Lần đánh giá cuối", "Since the fleet was judged"),
            ),
        ],
    ),
    (
        "Phiếu sửa chữa · Work orders",
        &[
            figure(
                "camnet_fleet_work_orders",
                Gauge,
                &["stage"],
                "short",
                ("Phiếu chưa đóng", "Orders not closed"),
            ),
            rare(figure(
                "camnet_fleet_work_order_oldest_timestamp_seconds",
                Age,
                &["stage"],
                "s",
                ("Phiếu cũ nhất", "Oldest order"),
            )),
        ],
    ),
    (
        "Tiếp nhận · Ingest",
        &[
            figure("camnet_hub_broker_up", Gauge, &[], "short", ("Liên kết broker", "Link to the broker")),
            figure(
                "camnet_hub_ingest_events_total",
                Rate,
                &[],
                "cps",
                ("Sự kiện mỗi giây", "Events a second"),
            ),
            figure(
                "camnet_hub_ingest_duplicates_total",
                Rate,
                &[],
                "cps",
                ("Sự kiện gửi lặp", "Events known already"),
            ),
            figure("camnet_hub_ingest_conflicts_total", Rate, &[], "cps", ("Xung đột", "Conflicts")),
            figure(
                "camnet_hub_ingest_refused_total",
                Rate,
                &["reason"],
                "cps",
                ("Sự kiện không nhận", "Events set aside"),
            ),
            figure("camnet_hub_ingest_receipts_total", Rate, &[], "cps", ("Biên nhận", "Receipts")),
            figure("camnet_hub_ingest_commits_total", Rate, &[], "cps", ("Lần ghi", "Commits")),
            figure("camnet_hub_ingest_commit_seconds", Quantiles, &[], "s", ("Thời gian ghi", "Commit time")),
            figure(
                "camnet_hub_motion_searchable_seconds",
                Quantiles,
                &[],
                "s",
                ("Từ chuyển động đến tra được", "From motion to searchable"),
            ),
            figure(
                "camnet_hub_ingest_index_failures_total",
                Rate,
                &[],
                "cps",
                ("Lỗi chỉ mục", "Index failures"),
            ),
            figure(
                "camnet_hub_journal_next",
                Gauge,
                &[],
                "short",
                ("Bản ghi trong nhật ký", "Records in the journal"),
            ),
            figure(
                "camnet_hub_index_applied",
                Gauge,
                &[],
                "short",
                ("Bản ghi đã vào chỉ mục", "Records in the index"),
            ),
        ],
    ),
    (
        "Máy chủ · Hub",
        &[
            figure("camnet_hub_disk_free_bytes", Gauge, &[], "bytes", ("Đĩa còn trống", "Free on the disk")),
            figure("camnet_hub_disk_size_bytes", Gauge, &[], "bytes", ("Dung lượng đĩa", "Size of the disk")),
            figure(
                "camnet_hub_http_requests_total",
                Rate,
                &["listener", "status"],
                "reqps",
                ("Yêu cầu HTTP", "HTTP requests"),
            ),
            figure(
                "camnet_hub_http_request_seconds",
                Quantiles,
                &[],
                "s",
                ("Thời gian trả lời", "Time to answer"),
            ),
            rare(figure(
                "camnet_hub_looks_total",
                Rate,
                &["action", "decision"],
                "cps",
                ("Lượt truy cập", "Looks"),
            )),
            rare(figure("camnet_hub_uploads_total", Rate, &["result"], "cps", ("Lần tải lên", "Uploads"))),
            figure("camnet_hub_upload_bytes_total", Rate, &[], "Bps", ("Dữ liệu tải lên", "Uploaded bytes")),
            figure("camnet_hub_uploads_open", Gauge, &[], "short", ("Đang tải lên", "Open uploads")),
            figure("camnet_hub_box_connections", Gauge, &[], "short", ("Kết nối của hộp", "Box connections")),
            rare(figure(
                "camnet_hub_box_connections_failed_total",
                Rate,
                &["reason"],
                "cps",
                ("Kết nối hỏng", "Failed connections"),
            )),
            rare(figure(
                "camnet_hub_command_results_total",
                Rate,
                &["outcome"],
                "cps",
                ("Kết quả lệnh", "Command results"),
            )),
            rare(figure("camnet_hub_copies_total", Rate, &["result"], "cps", ("Bản xem", "Working copies"))),
            figure(
                "camnet_hub_copies_bytes",
                Gauge,
                &[],
                "bytes",
                ("Bản xem đang giữ", "Working copies kept"),
            ),
        ],
    ),
    (
        "Webhook · Webhooks",
        &[
            figure(
                "camnet_webhook_posts_total",
                Rate,
                &["webhook", "result"],
                "cps",
                ("Tin gửi đi", "Messages"),
            ),
            figure("camnet_webhook_up", Gauge, &["webhook"], "short", ("Máy nhận trả lời", "Receiver takes")),
            rare(figure(
                "camnet_webhook_waiting_since_timestamp_seconds",
                Age,
                &["webhook"],
                "s",
                ("Tin đang chờ", "Message that waits"),
            )),
        ],
    ),
    (
        "Từng thiết bị (/metrics/devices) · Each device",
        &[
            figure(
                "camnet_device_state",
                Table,
                &["device", "kind", "site", "state"],
                "short",
                ("Tình trạng", "States"),
            ),
            figure(
                "camnet_device_state_since_timestamp_seconds",
                Oldest,
                &["device"],
                "s",
                ("Trong tình trạng lâu nhất", "Longest in their state"),
            ),
            figure(
                "camnet_device_last_heard_timestamp_seconds",
                Oldest,
                &["device"],
                "s",
                ("Im lặng lâu nhất", "Longest silent"),
            ),
            figure(
                "camnet_device_frames_per_second",
                Lowest,
                &["device"],
                "short",
                ("Khung hình mỗi giây, thấp nhất", "Pictures a second, lowest"),
            ),
            figure(
                "camnet_device_video_bytes_per_second",
                Highest,
                &["device"],
                "Bps",
                ("Băng thông hình, cao nhất", "Video bytes a second, highest"),
            ),
            figure(
                "camnet_device_packets_lost_ratio",
                Highest,
                &["device"],
                "percentunit",
                ("Mất gói, cao nhất", "Packets lost, highest"),
            ),
            figure(
                "camnet_device_ring_seconds",
                Lowest,
                &["device"],
                "s",
                ("Vùng ghi vòng, ngắn nhất", "Ring, shortest"),
            ),
            figure(
                "camnet_device_ring_due_seconds",
                Lowest,
                &["device"],
                "s",
                ("Vùng ghi vòng cần có", "Ring that is due"),
            ),
            figure(
                "camnet_box_last_heard_timestamp_seconds",
                Oldest,
                &["box"],
                "s",
                ("Hộp biên im lặng lâu nhất", "Boxes silent longest"),
            ),
            figure(
                "camnet_box_disk_free_bytes",
                Lowest,
                &["box"],
                "bytes",
                ("Đĩa của hộp còn trống, ít nhất", "Free on box disks, lowest"),
            ),
            figure(
                "camnet_box_disk_size_bytes",
                Lowest,
                &["box"],
                "bytes",
                ("Dung lượng đĩa của hộp", "Size of box disks"),
            ),
            figure(
                "camnet_box_events_owed",
                Highest,
                &["box"],
                "short",
                ("Sự kiện còn nợ, nhiều nhất", "Events owed, most"),
            ),
            figure(
                "camnet_box_receipt_seconds",
                Highest,
                &["box"],
                "s",
                ("Biên nhận chậm nhất", "Receipts, slowest"),
            ),
            figure(
                "camnet_box_temperature_celsius",
                Highest,
                &["box"],
                "celsius",
                ("Nhiệt độ, cao nhất", "Temperature, highest"),
            ),
            rare(figure(
                "camnet_hub_ingest_box_refused_total",
                Rate,
                &["box", "reason"],
                "cps",
                ("Không nhận, theo hộp", "Set aside, by box"),
            )),
        ],
    ),
];

/// Series of a panel that shows the worst of many.
const WORST: u32 = 20;
const WIDTH: usize = 24;
const PANEL_WIDTH: usize = 8;
const PANEL_HEIGHT: usize = 7;

impl Figure {
    /// What the panel asks of Prometheus.
    pub fn expressions(&self) -> Vec<String> {
        let metric = self.metric;
        let of = |how: &str, what: &str| match self.by {
            [] => format!("{how} by (instance) ({what})"),
            by => format!("{how} by (instance, {}) ({what})", by.join(", ")),
        };
        match self.shape {
            Gauge | Table => vec![of("sum", metric)],
            Rate => vec![of("sum", &format!("rate({metric}[5m])"))],
            Quantiles => {
                let rate = format!("sum by (instance, le) (rate({metric}_bucket[5m]))");
                ["0.5", "0.99"].map(|share| format!("histogram_quantile({share}, {rate})")).into()
            }
            Age | AgeTable => vec![format!("time() - {}", of("min", metric))],
            Highest => vec![format!("topk({WORST}, {})", of("max", metric))],
            Lowest => vec![format!("bottomk({WORST}, {})", of("min", metric))],
            Oldest => vec![format!("topk({WORST}, time() - {})", of("min", metric))],
        }
    }

    /// As `# TYPE` says it.
    pub fn kind(&self) -> &'static str {
        match self.shape {
            Rate => "counter",
            Quantiles => "histogram",
            _ => "gauge",
        }
    }

    fn panel(&self, id: usize, x: usize, y: usize) -> Value {
        let is_table = matches!(self.shape, Table | AgeTable);
        let legend = match (self.shape, self.by) {
            (Quantiles, _) => None,
            (_, []) => Some(self.en.to_owned()),
            (_, by) => Some(by.iter().map(|label| format!("{{{{{label}}}}}")).collect::<Vec<_>>().join(" ")),
        };
        let names = ["median", "p99"];
        let targets = self.expressions().into_iter().enumerate().map(|(n, expr)| {
            json!({
                "datasource": { "type": "prometheus", "uid": "${datasource}" },
                "refId": if n == 0 { "A" } else { "B" },
                "expr": expr,
                "legendFormat": legend.clone().unwrap_or_else(|| names[n].to_owned()),
                "instant": is_table,
                "range": !is_table,
                "format": if is_table { "table" } else { "time_series" },
            })
        });
        json!({
            "id": id,
            "type": if is_table { "table" } else { "timeseries" },
            "title": format!("{} · {}", self.vi, self.en),
            "description": self.metric,
            "datasource": { "type": "prometheus", "uid": "${datasource}" },
            "gridPos": { "h": PANEL_HEIGHT, "w": PANEL_WIDTH, "x": x, "y": y },
            "fieldConfig": { "defaults": { "unit": self.unit, "min": 0 }, "overrides": [] },
            "targets": targets.collect::<Vec<_>>(),
        })
    }
}

pub fn figures() -> impl Iterator<Item = &'static Figure> {
    ROWS.iter().flat_map(|(_, figures)| figures.iter())
}

/// The dashboard as JSON text.
fn dashboard() -> String {
    let (mut panels, mut y) = (Vec::new(), 0);
    for (title, figures) in ROWS {
        panels.push(json!({
            "id": panels.len() + 1, "type": "row", "title": title, "collapsed": false, "panels": [],
            "gridPos": { "h": 1, "w": WIDTH, "x": 0, "y": y },
        }));
        y += 1;
        for line in figures.chunks(WIDTH / PANEL_WIDTH) {
            for (n, figure) in line.iter().enumerate() {
                panels.push(figure.panel(panels.len() + 1, n * PANEL_WIDTH, y));
            }
            y += PANEL_HEIGHT;
        }
    }
    let dashboard = json!({
        "uid": "camnet",
        "title": "camnet",
        "tags": ["camnet"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": { "from": "now-24h", "to": "now" },
        "templating": { "list": [
            { "name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus" },
        ] },
        "panels": panels,
    });
    serde_json::to_string_pretty(&dashboard).unwrap() + "\n"
}

/// `CAMNET_WRITE_CONTRACTS=1 cargo test --test it dashboard` writes the file anew.
#[test]
fn the_committed_dashboard_is_made_from_the_list_of_figures() {
    let path = root().join("deploy/grafana/camnet.json");
    if std::env::var_os("CAMNET_WRITE_CONTRACTS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, dashboard()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == dashboard(),
        "run CAMNET_WRITE_CONTRACTS=1 cargo test --test it dashboard, and look at the diff"
    );
}
