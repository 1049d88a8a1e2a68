//! The page's words, both languages side by side so that none is forgotten.

/// A language of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    English,
    Japanese,
}

impl Language {
    /// As HTML and HTTP name it.
    pub(super) const fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Japanese => "ja",
        }
    }

    /// The one of a tag like `ja` or `en-GB`.
    pub(super) fn from_tag(tag: &str) -> Option<Self> {
        let primary = tag.split('-').next().unwrap_or_default();
        [Self::English, Self::Japanese]
            .into_iter()
            .find(|language| primary.eq_ignore_ascii_case(language.tag()))
    }

    /// What a browser would rather have (RFC 9110 §12.5.4); English where it has neither.
    pub(super) fn accepted(header: &str) -> Self {
        let wish = |part: &str| {
            let (tag, parameter) = part.split_once(';').unwrap_or((part, "q=1"));
            let weight: f64 = parameter.trim().strip_prefix("q=")?.parse().ok()?;
            Some((Self::from_tag(tag.trim())?, weight)).filter(|(_, weight)| *weight > 0.0)
        };
        let first = |one: (Self, f64), other: (Self, f64)| if other.1 > one.1 { other } else { one };
        header.split(',').filter_map(wish).reduce(first).map_or(Self::English, |(language, _)| language)
    }

    /// The other one.
    pub(super) const fn other(self) -> Self {
        match self {
            Self::English => Self::Japanese,
            Self::Japanese => Self::English,
        }
    }
}

macro_rules! catalogue {
    ($($word:ident: $english:literal, $japanese:literal;)*) => {
        /// Something that the page says.
        #[derive(Clone, Copy, Debug)]
        pub(super) enum Word { $($word),* }

        impl Word {
            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$word),*];

            /// In a language.
            pub(super) const fn text(self, language: Language) -> &'static str {
                match (self, language) {
                    $((Self::$word, Language::English) => $english, (Self::$word, Language::Japanese) => $japanese,)*
                }
            }
        }
    };
}

catalogue! {
    Title: "outbound port 25", "25番ポート送信規制";
    Skip: "Skip to the content", "本文へ移動";
    OtherLanguage: "日本語", "English";
    Stale: "No answer from op25b: what follows is old.", "op25b から応答がありません。以下は古い情報です。";
    ReadAt: "Read at", "取得時刻";
    Instance: "Instance", "インスタンス";

    Enforcing: "ENFORCING", "規制中";
    EnforcingMeans: "The filter is attached everywhere and blocks as the policy says.",
        "すべてのインターフェースで、ポリシーどおりに遮断しています。";
    Suspended: "SUSPENDED", "一時停止中";
    SuspendedMeans: "The filter is attached, but somebody has suspended it: what is suspended is not blocked.",
        "フィルタは装着されていますが、一時停止の対象は遮断していません。";
    Monitoring: "MONITORING, NOT BLOCKING", "監視のみ(遮断なし)";
    MonitoringMeans: "The filter is attached and counts; the policy blocks nothing now.",
        "フィルタは装着され計数していますが、現在のポリシーは何も遮断しません。";
    Partial: "NOT ENFORCING EVERYWHERE", "一部で規制されていません";
    PartialMeans: "The filter is missing on an interface: see Interfaces.",
        "フィルタが外れているインターフェースがあります。「インターフェース」を確認してください。";
    Detached: "NOT ENFORCING", "規制されていません";
    DetachedMeans: "The filter is attached nowhere: port 25 is open.",
        "フィルタはどこにも装着されていません。25番ポートは開いています。";
    Unknown: "STATE UNKNOWN", "状態不明";

    Policy: "Policy", "ポリシー";
    Hash: "Hash", "ハッシュ";
    Generation: "Generation", "世代";
    Since: "In force since", "適用開始";
    Judged: "Frames judged", "判定フレーム数";
    Dropped: "Frames dropped", "遮断フレーム数";
    NextChange: "Next change", "次の予定変更";
    NoChange: "nothing is scheduled", "予定なし";
    Overdue: "Overdue", "期限超過";
    SuspendedUntil: "Suspended until", "一時停止の終了";
    Everything: "everything", "すべて";
    By: "by", "実行者";
    Trial: "On trial until", "試行の終了";

    Warnings: "Warnings", "警告";
    NoWarnings: "There are none.", "ありません。";

    Groups: "Customer groups", "顧客グループ";
    GroupsCaption: "What was counted since the counters began", "計数開始からの累計";
    Group: "Group", "グループ";
    NoGroup: "in no group", "グループ外";
    FormerGroup: "no longer in the policy", "現ポリシーになし";
    Mode: "Mode", "モード";
    ModeEnforce: "enforce", "規制";
    ModeMonitor: "monitor", "監視";
    ModeOff: "off", "対象外";
    BlockedPackets: "Blocked packets", "遮断パケット";
    WouldPackets: "Would-block packets", "遮断予定パケット";
    AllowedPackets: "Allowed packets", "許可パケット";
    Attempts: "Attempts", "接続試行";
    AttemptsMeans: "Attempts are connections that were tried, without retransmissions, of packets that were or would be blocked.",
        "「接続試行」は再送を除いた接続の試み(遮断または遮断予定のもの)です。";
    SourceNumber: "Sources", "送信元数";
    Total: "All", "合計";

    Trend: "Last 24 hours", "過去24時間";
    TrendCaption: "Attempts, hour by hour", "1時間ごとの接続試行";
    TrendOff: "No history is kept. To turn it on, write this into the policy and reload:",
        "履歴は保存されていません。有効にするには、ポリシーに次を書き、再読み込みしてください:";
    TrendEmpty: "Nothing has been written down in the last 24 hours.", "過去24時間の記録はありません。";
    TrendTable: "The same as a table", "表で見る";
    Hour: "Hour", "時刻";
    Blocked: "Blocked", "遮断";
    Would: "Would be blocked", "遮断予定";
    Most: "Most in an hour", "1時間の最大";

    Sources: "Top sources", "送信元上位";
    SourcesCaption: "Sources that send past the relays, most attempts first",
        "リレーを経由せず送信する送信元(接続試行の多い順)";
    NoSources: "No source has sent past the relays yet.", "リレーを経由しない送信元はまだありません。";
    Source: "Source", "送信元";
    Triage: "Triage", "判別";
    TriageBot: "bot?", "ボット?";
    TriageSettings: "settings?", "設定?";
    TriageQuiet: "quiet", "沈静";
    TriageNone: "-", "-";
    TriageMeans: "bot?: {destinations} destinations or more within two hours, or {rate} attempts a minute or more. quiet: nothing for {quiet}. settings?: all else, likely old mail settings. Groups that share addresses are not told apart.",
        "ボット?: 2時間以内に宛先{destinations}件以上、または毎分{rate}回以上の試行。沈静: {quiet}以上通信なし。設定?: それ以外(古いメール設定の可能性)。アドレス共有グループは判別しません。";
    Destinations: "Destinations", "宛先数";
    PerMinute: "Attempts a minute", "試行/分";
    Packets: "Packets", "パケット";
    LastSeen: "Last seen", "最終検出";
    LastDestination: "Last destination", "最後の宛先";
    More: "{shown} of {all} are shown; `op25b top` shows all.", "{all}件中{shown}件を表示。全件は `op25b top` で確認できます。";

    Evicted: "{} accounts of sources had to make room for others: what is said of sources is too low; groups are exact.",
        "送信元の記録{}件が表からあふれました。送信元ごとの値は実際より少なく、グループごとの値は正確です。";

    Relays: "Relays", "リレー";
    RelaysCaption: "Relays by their hostname, as the DNS named them", "ホスト名で指定されたリレーと DNS の応答";
    RelayNames: "Relays of the policy:", "ポリシーのリレー:";
    NoRelays: "The policy names none.", "ポリシーに指定はありません。";
    NoHostnames: "All are given by address; no name has to be asked for.",
        "すべてアドレスで指定されています。名前解決は不要です。";
    Hostname: "Hostname", "ホスト名";
    Addresses: "Addresses", "アドレス";
    Answered: "DNS answered", "DNS 応答";
    Never: "never", "なし";
    Ago: "{} ago", "{}前";

    Interfaces: "Interfaces", "インターフェース";
    InterfacesCaption: "Where the filter is attached", "フィルタの装着状況";
    Interface: "Interface", "インターフェース";
    Role: "Role", "役割";
    RoleCustomer: "customer", "顧客側";
    RoleUpstream: "upstream", "上流側";
    RoleBoth: "both", "両方";
    AttachMode: "Attached as", "装着方式";
    State: "State", "状態";
    Attached: "attached", "装着済み";
    NotAttached: "NOT ATTACHED", "未装着";

    Foot: "Read-only. The same as data:", "閲覧専用。データ形式:";
    Seconds: "{} s", "{}秒";
    Minutes: "{} min", "{}分";
    Hours: "{} h", "{}時間";
    Days: "{} d", "{}日";
}

#[cfg(test)]
mod tests {
    use super::{Language::*, *};

    #[test]
    fn both_languages_say_all_and_fill_the_same_places() {
        for word in Word::ALL {
            let (english, japanese) = (word.text(English), word.text(Japanese));
            assert!(!english.is_empty() && !japanese.is_empty(), "{word:?}");
            let places = |text: &str| {
                let mut places: Vec<String> = text
                    .split('{')
                    .skip(1)
                    .map(|rest| rest.split('}').next().unwrap_or_default().to_owned())
                    .collect();
                places.sort();
                places
            };
            assert_eq!(places(english), places(japanese), "{word:?}");
        }
    }

    #[test]
    fn the_browser_gets_what_it_would_rather_have() {
        for (header, language) in [
            ("", English),
            ("ja", Japanese),
            ("ja-JP,ja;q=0.9,en;q=0.8", Japanese),
            ("en-GB,en;q=0.9,ja;q=0.8", English),
            ("fr, ja;q=0.5, en;q=0.4", Japanese),
            ("en;q=0.1, ja;q=0.2", Japanese),
            ("ja;q=0", English),
            ("de", English),
            ("*", English),
            (";;,,q=,ja;q=x", English),
            ("jam, javanese", English),
        ] {
            assert_eq!(Language::accepted(header), language, "{header:?}");
        }
    }
}
