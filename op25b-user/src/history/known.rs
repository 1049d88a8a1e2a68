//! All that is known of sources: the accounts as they are now, laid over what has been written.

use anyhow::Result;
use ipnetwork::IpNetwork;

use super::{read::Reader, reading};
use crate::{
    clock,
    instance::Instance,
    manifest::Manifest,
    policy::{NO_ACCOUNTS, contains},
    sources::{self, Account},
};

/// What is known, and what it is based on.
pub struct Known {
    /// The hours.
    pub reader: Reader,
    /// The accounts as they are now.
    pub accounts: Vec<Account>,
    /// Whether there is a history: else the accounts' last two hours are all.
    pub history: bool,
    /// What it is based on, and what could not be read, a sentence each.
    pub notes: Vec<String>,
}

impl Known {
    /// Gathers it, of all sources or of those that a prefix touches.
    ///
    /// # Errors
    ///
    /// When there is no memory for it: what cannot be read is in the notes.
    pub fn gather(instance: &Instance, manifest: &Manifest, within: Option<&IpNetwork>) -> Result<Self> {
        let mut notes = Vec::new();
        let opened = match &manifest.outputs.history {
            None if !manifest.outputs.account_sources => {
                notes.push(NO_ACCOUNTS.to_owned());
                None
            }
            None => {
                notes.push(
                    "history is off (`history:` in the policy): only the accounts that the kernel keeps, each with \
                     its last two hours"
                        .to_owned(),
                );
                None
            }
            Some(config) => match Reader::open(&config.path) {
                Ok(reader) => Some(reader),
                Err(error) => {
                    notes.push(format!("{error:#}; only the accounts that the kernel keeps"));
                    None
                }
            },
        };
        let history = opened.is_some();
        let mut reader = match opened {
            Some(reader) => reader,
            None => Reader::nowhere()?,
        };
        let epoch = clock::epoch()?;
        let mut accounts = match sources::read_by(instance, manifest, epoch) {
            Ok(read) => {
                if read.evicted != 0 {
                    notes.push(format!(
                        "{} accounts had to make room for others: what they held is known as far as it has been \
                         written down",
                        read.evicted
                    ));
                }
                read.accounts
            }
            Err(error) => {
                notes.push(format!("the kernel's accounts cannot be read: {error:#}"));
                Vec::new()
            }
        };
        if let Some(prefix) = within {
            accounts.retain(|account| contains(prefix, &account.source) || contains(&account.source, prefix));
        }
        reader.lay_over(&reading::rows(&accounts, manifest, epoch));
        Ok(Self { reader, accounts, history, notes })
    }
}
