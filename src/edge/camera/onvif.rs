//! What a camera says of what it sees: messages of its ONVIF metadata stream.
//!
//! Pure: bytes in, motion notices and objects out (ONVIF Analytics Service Specification, 5; Imaging and Event
//! topics). Bounded; takes what it knows, leaves the rest, and refuses what is no XML. May not decide what an event is.

use roxmltree::{Document, Node, ParsingOptions};

use crate::limits::{METADATA_BYTES_MAX, METADATA_NODES_MAX, METADATA_OBJECTS_MAX, METADATA_TEXT_CHARS_MAX};
use crate::model::Time;

/// One message of a metadata stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    pub notices: Vec<MotionNotice>,
    pub frames: Vec<ObjectFrame>,
}

/// The camera's own word that something moves, or no longer does.
#[derive(Debug, Clone, PartialEq)]
pub struct MotionNotice {
    /// By the camera's clock.
    pub utc: Option<Time>,
    pub topic: MotionTopic,
    /// Which rule or source of the camera says so; a camera may have several of one topic.
    pub source: String,
    pub is_on: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MotionTopic {
    /// `tns1:RuleEngine/CellMotionDetector/Motion`
    CellMotion,
    /// `tns1:VideoSource/MotionAlarm`
    MotionAlarm,
    /// `tns1:RuleEngine/FieldDetector/ObjectsInside`
    ObjectsInside,
}

/// The objects that the camera sees in one picture; none are there when it sees none.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectFrame {
    /// By the camera's clock.
    pub utc: Option<Time>,
    pub objects: Vec<Object>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The same over pictures while the camera follows it.
    pub id: Option<String>,
    /// `Human`, `Vehicle`… as the camera says; the likeliest.
    pub class: Option<String>,
    pub likelihood: Option<f64>,
    pub area: Option<Area>,
}

/// A part of the picture: 0 to 1 from the left and from the top.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Area {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum OnvifError {
    #[error("a metadata message of {bytes} bytes is too large")]
    TooLarge { bytes: usize },
    #[error("a metadata message is no text")]
    NotText,
    #[error("a metadata message is no XML: {0}")]
    NotXml(String),
    #[error("a metadata message begins with {0:?} instead of MetadataStream")]
    NotMetadata(String),
}

/// Reads one message. What it does not know it leaves out.
pub fn parse(bytes: &[u8]) -> Result<Metadata, OnvifError> {
    if bytes.len() > METADATA_BYTES_MAX {
        return Err(OnvifError::TooLarge { bytes: bytes.len() });
    }
    // Some cameras end their messages with zeros.
    let text = std::str::from_utf8(bytes).map_err(|_| OnvifError::NotText)?.trim_matches(['\0', '\u{feff}']);
    let options = ParsingOptions { nodes_limit: METADATA_NODES_MAX, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text.trim(), options)
        .map_err(|error| OnvifError::NotXml(short(&error.to_string())))?;
    let root = document.root_element();
    if root.tag_name().name() != "MetadataStream" {
        return Err(OnvifError::NotMetadata(short(root.tag_name().name())));
    }
    // Prefixes and namespaces differ from make to make; the names do not.
    let notices = named(root, "Event").flat_map(|event| named(event, "NotificationMessage"));
    let frames = named(root, "VideoAnalytics").flat_map(|analytics| named(analytics, "Frame"));
    Ok(Metadata { notices: notices.filter_map(notice).collect(), frames: frames.map(frame).collect() })
}

fn named<'a, 'i>(node: Node<'a, 'i>, name: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(move |child| child.tag_name().name() == name)
}

fn one<'a, 'i>(node: Node<'a, 'i>, path: &[&'static str]) -> Option<Node<'a, 'i>> {
    path.iter().try_fold(node, |node, name| named(node, name).next())
}

fn short(text: &str) -> String {
    text.chars().take(METADATA_TEXT_CHARS_MAX).collect()
}

fn notice(node: Node) -> Option<MotionNotice> {
    let (topic, item) = topic(one(node, &["Topic"])?.text()?)?;
    let message = one(node, &["Message", "Message"])?;
    let items = |of: &'static str| named(message, of).flat_map(|list| named(list, "SimpleItem"));
    let value = items("Data").find(|data| data.attribute("Name") == Some(item))?.attribute("Value")?;
    // A property that is gone is no longer true.
    let is_gone = message.attribute("PropertyOperation") == Some("Deleted");
    let is_on = matches!(value.trim(), "true" | "True" | "TRUE" | "1") && !is_gone;
    let tokens: Vec<&str> = items("Source").filter_map(|source| source.attribute("Value")).collect();
    Some(MotionNotice {
        utc: message.attribute("UtcTime").and_then(time),
        topic,
        source: short(&tokens.join("/")),
        is_on,
    })
}

/// The topic, and the item that holds its state; prefixes may stand before each step.
fn topic(text: &str) -> Option<(MotionTopic, &'static str)> {
    let steps = text.trim().split('/').map(|step| step.rsplit(':').next().unwrap_or(step));
    match steps.collect::<Vec<_>>()[..] {
        ["RuleEngine", "CellMotionDetector", "Motion"] => Some((MotionTopic::CellMotion, "IsMotion")),
        ["VideoSource", "MotionAlarm"] => Some((MotionTopic::MotionAlarm, "State")),
        ["RuleEngine", "FieldDetector", "ObjectsInside"] => Some((MotionTopic::ObjectsInside, "IsInside")),
        _ => None,
    }
}

/// `xs:dateTime`; one without a zone is UTC, as the attribute's name says.
fn time(text: &str) -> Option<Time> {
    let text = text.trim();
    let naive = || text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    text.parse().ok().or_else(|| naive().map(|zoned| zoned.timestamp()))
}

fn frame(node: Node) -> ObjectFrame {
    let whole = Transform::default().then(node);
    let objects = named(node, "Object").take(METADATA_OBJECTS_MAX).map(|object| read_object(object, whole));
    ObjectFrame { utc: node.attribute("UtcTime").and_then(time), objects: objects.collect() }
}

fn read_object(node: Node, frame: Transform) -> Object {
    let appearance = one(node, &["Appearance"]);
    let transform = appearance.map_or(frame, |appearance| frame.then(appearance));
    let (class, likelihood) = appearance.and_then(class).unzip();
    let shape = appearance.and_then(|appearance| one(appearance, &["Shape", "BoundingBox"]));
    Object {
        id: node.attribute("ObjectId").map(short),
        class,
        likelihood: likelihood.flatten(),
        area: shape.and_then(|shape| transform.area(shape)),
    }
}

/// The likeliest class: `Class/Type` with its likelihood as an attribute, or the older `Class/ClassCandidate`.
fn class(appearance: Node) -> Option<(String, Option<f64>)> {
    let class = one(appearance, &["Class"])?;
    let likelihood = |text: Option<&str>| text?.trim().parse::<f64>().ok().filter(|value| value.is_finite());
    let new =
        named(class, "Type").filter_map(|of| Some((of.text()?, likelihood(of.attribute("Likelihood")))));
    let old = named(class, "ClassCandidate").filter_map(|of| {
        let how_likely = one(of, &["Likelihood"]).and_then(|node| node.text());
        Some((one(of, &["Type"])?.text()?, likelihood(how_likely)))
    });
    let all = new.chain(old).take(METADATA_OBJECTS_MAX);
    let best = all.max_by(|a, b| a.1.unwrap_or(0.0).total_cmp(&b.1.unwrap_or(0.0)))?;
    Some((short(best.0.trim()), best.1))
}

/// From a camera's coordinates to ONVIF's: −1 to 1, upwards.
#[derive(Clone, Copy)]
struct Transform {
    scale: (f64, f64),
    translate: (f64, f64),
}

impl Default for Transform {
    fn default() -> Self {
        Self { scale: (1.0, 1.0), translate: (0.0, 0.0) }
    }
}

impl Transform {
    /// With the transformation that `node` has, which is applied before this one.
    fn then(self, node: Node) -> Self {
        let pair = |name: &'static str, or: f64| {
            let found = one(node, &["Transformation", name]);
            let value = |axis: &str| found.and_then(|f| number(f, axis)).unwrap_or(or);
            (value("x"), value("y"))
        };
        let (scale, translate) = (pair("Scale", 1.0), pair("Translate", 0.0));
        Self {
            scale: (self.scale.0 * scale.0, self.scale.1 * scale.1),
            translate: (
                self.scale.0 * translate.0 + self.translate.0,
                self.scale.1 * translate.1 + self.translate.1,
            ),
        }
    }

    fn area(self, shape: Node) -> Option<Area> {
        let x = |name| Some((self.scale.0 * number(shape, name)? + self.translate.0 + 1.0) / 2.0);
        let y = |name| Some((1.0 - self.scale.1 * number(shape, name)? - self.translate.1) / 2.0);
        let (x1, x2, y1, y2) = (x("left")?, x("right")?, y("top")?, y("bottom")?);
        let inside = |value: f64| value.is_finite().then(|| value.clamp(0.0, 1.0));
        Some(Area {
            left: inside(x1.min(x2))?,
            top: inside(y1.min(y2))?,
            right: inside(x1.max(x2))?,
            bottom: inside(y1.max(y2))?,
        })
    }
}

fn number(node: Node, name: &str) -> Option<f64> {
    node.attribute(name)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str) -> Metadata {
        let path = format!("{}/tests/fuzz/corpus/onvif_metadata/{name}", env!("CARGO_MANIFEST_DIR"));
        parse(&std::fs::read(path).unwrap()).unwrap()
    }

    fn at(text: &str) -> Option<Time> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn motion_is_read_as_several_makes_say_it() {
        // Hikvision style: the rule's name among the sources, whole seconds.
        let cell = MotionNotice {
            utc: at("2026-03-01T17:00:01Z"),
            topic: MotionTopic::CellMotion,
            source: "VideoSourceToken/VideoAnalyticsToken/MyMotionDetectorRule".into(),
            is_on: true,
        };
        assert_eq!(sample("hikvision_motion"), Metadata { notices: vec![cell], frames: vec![] });
        // Dahua style: other prefixes, a time without zone, two notices in one message, zeros behind it.
        let alarm = MotionNotice {
            utc: at("2026-03-01T17:00:02.5Z"),
            topic: MotionTopic::MotionAlarm,
            source: "000".into(),
            is_on: true,
        };
        let cell = MotionNotice { topic: MotionTopic::CellMotion, is_on: false, ..alarm.clone() };
        assert_eq!(sample("dahua_alarm").notices, [alarm, cell]);
        // A field that is taken away is no longer entered; other topics are left out.
        let notices = sample("axis_field").notices;
        assert_eq!(notices.len(), 1);
        assert_eq!((notices[0].topic, notices[0].is_on), (MotionTopic::ObjectsInside, false));
    }

    #[test]
    fn objects_stand_where_they_are_in_the_picture() {
        // Axis style: pixels of 320x240 with a transformation, upwards; class with likelihood as an attribute.
        let frames = sample("axis_objects").frames;
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[0].utc, at("2026-03-01T17:00:03.040Z"));
        let [person, car] = &frames[0].objects[..] else { panic!("{frames:?}") };
        assert_eq!((person.id.as_deref(), person.class.as_deref()), (Some("15"), Some("Human")));
        assert_eq!(person.likelihood, Some(0.9));
        let area = person.area.unwrap();
        let expected = Area { left: 0.25, top: 0.25, right: 0.5, bottom: 0.75 };
        for (found, expected) in [
            (area.left, expected.left),
            (area.top, expected.top),
            (area.right, expected.right),
            (area.bottom, expected.bottom),
        ] {
            assert!((found - expected).abs() < 1e-6, "{area:?}");
        }
        assert_eq!((car.class.as_deref(), car.area), (Some("Vehicle"), None));
        assert_eq!(frames[1].objects, [], "nothing is seen any more");
        // Hikvision style: no transformation, and the older form of a class.
        let [object] = &sample("hikvision_objects").frames[0].objects[..] else { panic!() };
        assert_eq!((object.class.as_deref(), object.likelihood), (Some("Human"), Some(0.8)));
        let expected = Area { left: 0.4, top: 0.25, right: 0.6, bottom: 1.0 };
        assert_eq!(object.area, Some(expected));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let large = vec![b' '; METADATA_BYTES_MAX + 1];
        assert_eq!(parse(&large), Err(OnvifError::TooLarge { bytes: large.len() }));
        assert_eq!(parse(&[0xff, 0xfe]), Err(OnvifError::NotText));
        assert!(matches!(parse(b"<a><b></a>"), Err(OnvifError::NotXml(_))));
        assert!(matches!(parse(b"<Envelope/>"), Err(OnvifError::NotMetadata(name)) if name == "Envelope"));
        let bomb = "<!DOCTYPE a [<!ENTITY b 'bbbb'>]><MetadataStream>&b;</MetadataStream>";
        assert!(matches!(parse(bomb.as_bytes()), Err(OnvifError::NotXml(_))));
        let deep = "<a>".repeat(METADATA_BYTES_MAX / 3);
        assert!(matches!(parse(deep.as_bytes()), Err(OnvifError::NotXml(_))));
        let wide =
            format!("<MetadataStream>{}</MetadataStream>", "<a/>".repeat(METADATA_NODES_MAX as usize + 1));
        assert!(matches!(parse(wide.as_bytes()), Err(OnvifError::NotXml(_))));
    }
}
