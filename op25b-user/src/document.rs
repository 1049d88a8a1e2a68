//! The policy file as it is written: keys and shapes, nothing of their meaning. Unknown keys are errors everywhere,
//! because in a filter an ignored key is an open port.

mod text;

use std::{borrow::Cow, fmt};

use schemars::{
    JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema, transform::RecursiveTransform,
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{
        self, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};

pub use text::{LARGEST, ReadError, parse, printable, read};
pub(crate) use text::{excerpt, is_word};

/// The JSON Schema of a policy file, as `policies/policy.schema.json` holds it.
#[must_use]
pub fn schema() -> Schema {
    // An absent key is no key without a value.
    let absent = |schema: &mut Schema| {
        if schema.get("default").is_some_and(serde_json::Value::is_null) {
            schema.remove("default");
        }
    };
    SchemaSettings::default()
        .with_transform(RecursiveTransform(absent))
        .into_generator()
        .into_root_schema_for::<Document>()
}

/// The whole file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Of the format; 1.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Named in the notice and in reports.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "String")]
    pub operator: Option<String>,
    /// Where dates without a time end: a name like Asia/Tokyo; absent: UTC.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "String")]
    pub timezone: Option<String>,
    /// Where to attach.
    #[serde(default)]
    pub interfaces: Interfaces,
    /// The provider's mail servers.
    #[serde(default)]
    pub relays: Vec<Relay>,
    /// The customer groups.
    pub customers: Vec<Customer>,
    /// Prefixes that may send.
    #[serde(default)]
    pub exemptions: Vec<Exemption>,
    /// More of them: CSV with the columns prefix, reason, ticket, expires.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "String")]
    pub exemptions_file: Option<String>,
    /// Prefixes that may not.
    #[serde(default)]
    pub quarantine: Vec<Quarantine>,
    /// More of them: CSV with the columns prefix, reason, ticket, expires, relays.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "String")]
    pub quarantine_file: Option<String>,
    /// Sources in no group.
    pub unknown_sources: UnknownSources,
    /// Whether IPv6 is filtered at all.
    #[serde(default)]
    pub ipv6: Ipv6,
    /// IPv4 in IPv6.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "Softwire")]
    pub softwire: Option<Softwire>,
    /// What groups with `action: notice` are told.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "Notice")]
    pub notice: Option<Notice>,
    /// OpenMetrics, the page and the API over HTTP; absent: off.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "Metrics")]
    pub metrics: Option<Metrics>,
    /// Hourly accounts of sources, kept in a database; absent: off.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "History")]
    pub history: Option<History>,
    /// Events for a collector; absent: off.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "Syslog")]
    pub syslog: Option<Syslog>,
    /// From when on a source is called a bot or quiet.
    #[serde(default)]
    pub triage: Triage,
    /// Count connections from groups to their relays' ports 587 and 465; never by source.
    #[serde(default)]
    pub count_submission: bool,
    /// Keep an account of each source that is judged; `false` makes a blocked frame cheaper and says nothing of who.
    #[serde(default = "yes")]
    pub account_sources: bool,
}

const fn yes() -> bool {
    true
}

/// One line, `554 5.7.1 OPERATOR: TEXT URL`, of at most 150 bytes with its CR LF.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`{text: \"outbound port 25 is blocked\"}`")]
pub struct Notice {
    /// 554: refused, mail comes back at once. 421: not now, mail is kept and tried again.
    #[serde(default = "Notice::reply")]
    pub reply: u16,
    /// What to say, in ASCII.
    pub text: String,
    /// Where more is written.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "String")]
    pub url: Option<String>,
}

/// Where to listen.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`{listen: 127.0.0.1:9025}`")]
pub struct Metrics {
    /// An address and a port, for example 127.0.0.1:9025.
    pub listen: String,
    /// Must be written for an address that others can reach: there is no password.
    #[serde(default)]
    pub allow_remote: bool,
}

/// What is kept, where and how long.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`{path: /var/lib/op25b/history.db, keep: 90d}`")]
pub struct History {
    /// The database, a path that starts with a slash.
    pub path: String,
    /// How long hours are kept, for example 90d; absent: 90 days.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "String")]
    pub keep: Option<String>,
    /// MiB that the database may take; the oldest hours go first. Absent: 1,024.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "i64")]
    pub max_mib: Option<i64>,
    /// Whether destinations are kept by source, `true` for 7 days, or how long, for example 14d; absent: they are not
    /// kept.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "Keep")]
    pub keep_destinations: Option<Keep>,
}

/// Whether something is kept, or how long.
#[derive(Clone, Debug)]
pub enum Keep {
    /// As long as is usual, or not at all.
    Usual(bool),
    /// So long.
    For(String),
}

impl JsonSchema for Keep {
    fn schema_name() -> Cow<'static, str> {
        "Keep".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Whether something is kept, or how long.",
            "anyOf": [{ "type": "boolean" }, { "type": "string" }],
        })
    }
}

// Not an untagged enum: its message would say nothing of what may be written.
impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UsualOrFor;

        impl Visitor<'_> for UsualOrFor {
            type Value = Keep;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("`true`, or a time like 7d")
            }

            fn visit_bool<E: de::Error>(self, keep: bool) -> Result<Keep, E> {
                Ok(Keep::Usual(keep))
            }

            fn visit_str<E: de::Error>(self, keep: &str) -> Result<Keep, E> {
                Ok(Keep::For(keep.to_owned()))
            }
        }

        deserializer.deserialize_any(UsualOrFor)
    }
}

/// Where events go, in the form of RFC 5424.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`{to: /dev/log}`, `{to: \"udp://192.0.2.14:514\"}` or tcp://")]
pub struct Syslog {
    /// A local socket's path, or udp://ADDRESS:PORT, or tcp://ADDRESS:PORT.
    pub to: String,
}

/// From when on a source is called a bot or quiet; thresholds are shown with the word.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Triage {
    /// This many destinations within two hours are a bot's; absent: 10.
    #[serde(deserialize_with = "written")]
    #[schemars(with = "i64")]
    pub bot_destinations: Option<i64>,
    /// This many attempts a minute are a bot's; absent: 30.
    #[serde(deserialize_with = "written")]
    #[schemars(with = "i64")]
    pub bot_attempts_per_minute: Option<i64>,
    /// Silent for this long is quiet, for example 6h; absent: 6 hours.
    #[serde(deserialize_with = "written")]
    #[schemars(with = "String")]
    pub quiet_after: Option<String>,
}

/// A key that is there is written: without a value it is wrong, and not absent.
fn written<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The same for a list, which YAML's reader takes for empty where nothing is written.
fn written_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    struct List;

    impl<'de> Visitor<'de> for List {
        type Value = Vec<String>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list, `[]` for none")
        }

        fn visit_seq<S: SeqAccess<'de>>(self, list: S) -> Result<Vec<String>, S::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(list))
        }
    }

    deserializer.deserialize_any(List).map(Some)
}

/// The interfaces of each role.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Interfaces {
    /// Frames from customers arrive here.
    #[serde(default)]
    pub customer: Vec<Interface>,
    /// Frames from the Internet arrive here.
    #[serde(default)]
    pub upstream: Vec<Interface>,
}

/// One interface: its name, or its name and how to attach.
#[derive(Clone, Debug)]
pub struct Interface {
    /// As `ip link` shows it.
    pub name: String,
    /// Where in the stack.
    pub attach: Attach,
}

/// Where in the stack the filter sits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attach {
    /// XDP in the driver.
    #[default]
    Native,
    /// XDP behind the driver: slower, works everywhere.
    Generic,
    /// TC, arriving frames.
    TcIngress,
    /// TC, leaving frames.
    TcEgress,
}

impl Attach {
    /// The word in the policy file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::TcIngress => "tc-ingress",
            Self::TcEgress => "tc-egress",
        }
    }
}

/// An interface with how to attach.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Long {
    /// As `ip link` shows it.
    name: String,
    /// Where in the stack.
    #[serde(default)]
    attach: Attach,
}

impl JsonSchema for Interface {
    fn schema_name() -> Cow<'static, str> {
        "Interface".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "One interface: its name, or its name and how to attach.",
            "anyOf": [{ "type": "string" }, generator.subschema_for::<Long>()],
        })
    }
}

// Not an untagged enum: that would swallow the message about the wrong key.
impl<'de> Deserialize<'de> for Interface {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ShortOrLong;

        impl<'de> Visitor<'de> for ShortOrLong {
            type Value = Interface;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an interface name, or {name: eth1, attach: generic}")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Interface, E> {
                Ok(Interface { name: name.to_owned(), attach: Attach::default() })
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Interface, M::Error> {
                let Long { name, attach } = Long::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Interface { name, attach })
            }
        }

        deserializer.deserialize_any(ShortOrLong)
    }
}

/// A mail server of the provider.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    /// Its name in reports.
    pub name: String,
    /// Its name in the DNS; resolved where no addresses are written, compared with them where they are.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "String")]
    pub hostname: Option<String>,
    /// Where answers of the DNS must lie.
    #[serde(default, deserialize_with = "written_list")]
    #[schemars(with = "Vec<String>")]
    pub within: Option<Vec<String>>,
    /// Addresses or prefixes.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// A customer group.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Customer {
    /// Its name in reports.
    pub name: String,
    /// Whose packets these are.
    #[serde(default)]
    pub prefixes: Vec<String>,
    /// More of them, one a line, `#` starts a comment; beside the policy file.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "String")]
    pub prefixes_file: Option<String>,
    /// Must be written.
    pub mode: Mode,
    /// When `mode: enforce` begins, `monitor` until then: a moment with its offset, 2008-04-01T00:00:00+09:00.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "String")]
    pub enforce_from: Option<String>,
    /// What happens to a blocked packet.
    #[serde(default)]
    pub action: Action,
    /// Relays the group may reach; absent: all of them.
    #[serde(default, deserialize_with = "written_list")]
    #[schemars(with = "Vec<String>")]
    pub relays: Option<Vec<String>>,
    /// Where port 25 is blocked; empty: everywhere.
    #[serde(default)]
    pub destinations: Vec<String>,
    /// Packets from port 25, on `upstream` interfaces.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "Mode")]
    pub return_path: Option<Mode>,
    /// Many customers behind one address (CGN, MAP-E): nobody is told apart.
    #[serde(default)]
    pub shared: bool,
    /// Length of the prefix that is one IPv6 customer; absent: 64.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "i64", range(min = 48, max = 64))]
    pub ipv6_source_length: Option<i64>,
    /// Allows a prefix of length 0.
    #[serde(default)]
    pub allow_any: bool,
}

/// What a group does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Nothing.
    Off,
    /// Count.
    Monitor,
    /// Block.
    Enforce,
}

impl Mode {
    /// The word in the policy file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Monitor => "monitor",
            Self::Enforce => "enforce",
        }
    }
}

/// What happens to a blocked packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It vanishes.
    #[default]
    Drop,
    /// It is reset.
    Reset,
    /// It is answered.
    Notice,
}

/// Prefixes that may send.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exemption {
    /// Which.
    pub prefixes: Vec<String>,
    /// Why.
    pub reason: Option<String>,
    /// Where that was decided.
    pub ticket: Option<String>,
    /// The last day, 2027-03-31, or a moment with its offset, 2027-03-31T12:00:00+09:00.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "String")]
    pub expires: Option<String>,
}

/// Prefixes that may not send, whatever else is written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quarantine {
    /// Which.
    pub prefixes: Vec<String>,
    /// Why.
    pub reason: Option<String>,
    /// Where that was decided.
    pub ticket: Option<String>,
    /// The last day, 2027-03-31, or a moment with its offset, 2027-03-31T12:00:00+09:00.
    #[serde(default, deserialize_with = "written")]
    #[schemars(with = "String")]
    pub expires: Option<String>,
    /// Leaves them the relays.
    #[serde(default)]
    pub relays: bool,
}

/// What happens to a source in no group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownSources {
    /// It passes, counted.
    Pass,
    /// It is blocked.
    Block,
}

/// Whether IPv6 is filtered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ipv6 {
    /// By the groups' IPv6 prefixes.
    #[default]
    Filtered,
    /// Not at all; must be written where no group has an IPv6 prefix.
    Unfiltered,
}

/// IPv4 in IPv6.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`{identify_by: outer}` or `{identify_by: inner}`")]
pub struct Softwire {
    /// Which address names the customer.
    #[serde(default)]
    pub identify_by: IdentifyBy,
}

/// Which address of a softwire names the customer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IdentifyBy {
    /// The IPv6 one.
    #[default]
    Outer,
    /// The IPv4 one.
    Inner,
}
