//! What customers are told on the wire: one line of ASCII that fits into one frame.

use std::fmt;

use op25b_ebpf::{
    abi::Role,
    reply::{LONGEST, Text},
};

use super::{Group, Port, reader::Reader};
use crate::document::{self, Action, Attach, Document};

/// The operator's sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The whole line, without CR LF.
    pub line: String,
    /// Whether it is all there is to say (421), and ends the conversation.
    pub hangs_up: bool,
}

impl Notice {
    /// As it is sent.
    #[must_use]
    pub fn text(&self) -> Option<Text> {
        Text::new(&self.line)
    }
}

impl Reader<'_> {
    pub(super) fn notice(&mut self, document: &Document) -> Option<Notice> {
        let written = document.notice.as_ref()?;
        self.leave();
        let operator = document.operator.as_deref();
        if let Some(operator) = operator
            && !is_plain(operator)
        {
            self.error(
                "operator:",
                "operator: the notice names it, and may have ASCII only (RFC 5321 §4.2); write it in Latin letters",
            );
        }
        self.enter("notice:");
        if written.text.is_empty() || !is_plain(&written.text) {
            self.error(
                "text:",
                "notice: text: write one line of printable ASCII (RFC 5321 §4.2): no line breaks, no other letters",
            );
        }
        if let Some(url) = &written.url {
            let known = url.starts_with("https://") || url.starts_with("http://");
            if !known || !is_plain(url) || url.contains(' ') {
                self.error(
                    "url:",
                    "notice: url: write one like https://www.example.jp/op25b, without blanks",
                );
            }
        }
        let line = fmt::from_fn(|line| {
            line.write_str(if written.reply == REFUSE { "554 5.7.1 " } else { "421 4.7.1 " })?;
            if let Some(operator) = operator {
                write!(line, "{operator}: ")?;
            }
            line.write_str(&written.text)?;
            match &written.url {
                Some(url) => write!(line, " {url}"),
                None => Ok(()),
            }
        })
        .to_string();
        if written.reply != REFUSE && written.reply != LATER {
            self.error(
                "reply:",
                format_args!(
                    "notice: reply {}: write 554 (refused: mail comes back at once) or 421 (not now: mail is kept and \
                     tried again)",
                    written.reply
                ),
            );
        }
        if line.len() > LONGEST - 2 {
            self.error(
                "text:",
                format_args!(
                    "notice: the reply has {} bytes, at most {} fit: code, operator, text, url and CR LF must not be \
                     longer than the room that drivers leave in front of a frame",
                    line.len() + 2,
                    LONGEST
                ),
            );
        }
        self.leave();
        Some(Notice { line, hangs_up: written.reply == LATER })
    }

    /// Groups and interfaces that do not go with a notice, or an answer at all.
    pub(super) fn warn_of_answers(&mut self, notice: Option<&Notice>, groups: &[Group], ports: &[Port]) {
        let answering: Vec<&Group> = groups.iter().filter(|group| group.action != Action::Drop).collect();
        match (notice, answering.iter().find(|group| group.action == Action::Notice)) {
            (None, Some(group)) => self.error(
                &group.name,
                format_args!(
                    "group {}: `action: notice` says nothing without a `notice:` section; write one with a `text`, or \
                     `action: reset`",
                    group.name
                ),
            ),
            (Some(_), None) => {
                self.warn("notice:", "notice: no group has `action: notice`, so nobody is told");
            }
            _ => {}
        }
        for group in &answering {
            if group.shared {
                self.warn(
                    &group.name,
                    format_args!(
                        "group {} is shared: answers are limited by address, so few of those behind it get one",
                        group.name
                    ),
                );
            }
        }
        if answering.is_empty() {
            return;
        }
        for port in ports.iter().filter(|port| port.attach == Attach::TcEgress && port.role != Role::UPSTREAM)
        {
            self.warn(&port.name, format_args!("interface {}: {UNANSWERED_ON_EGRESS}", port.name));
        }
    }
}

/// Why nothing is answered where frames leave.
pub(crate) const UNANSWERED_ON_EGRESS: &str = "at tc-egress blocked frames are dropped and not answered: an answer goes back where the frame came from, which is \
     not known there";

const REFUSE: u16 = 554;
const LATER: u16 = 421;

fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

impl document::Notice {
    /// What is written where nothing is.
    pub(crate) const fn reply() -> u16 {
        REFUSE
    }
}
