//! Policies and the files beside them, mutated: an answer each time, soon, and never a panic. `OP25B_FUZZ_SECONDS` says
//! for how long; the mutations are the same on every machine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use op25b::{
    document,
    policy::{Override, Policy},
};

/// Any one text is read within this time, on a busy machine too.
const LIMIT: Duration = Duration::from_secs(2);

/// What reading code trips over.
const HOSTILE: &[&str] = &[
    "\0",
    "\u{feff}",
    "\r",
    "\r\n",
    "\t",
    "\u{85}",
    "\u{2028}",
    "\u{1b}[2J",
    "ü",
    "🦀",
    "&a ",
    "*a",
    "<<: *a",
    "!!binary ",
    "!t ",
    "---\n",
    "...\n",
    "%YAML 9.9\n",
    "? ",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "|\n",
    ">-\n",
    "\"",
    "'",
    "\\x00",
    "#",
    ",",
    ",,",
    ";",
    "~",
    "null",
    "true",
    ".inf",
    ".nan",
    "0x1f",
    "1e999",
    "-1",
    "18446744073709551616",
    "0.0.0.0/0",
    "::/0",
    "::ffff:1.2.3.4/96",
    "255.255.255.255/32",
    "1.2.3.4/-1",
    "1.2.3.4/999",
    "203.0.113.0/255.255.255.0",
    "9999-12-31",
    "-9999-01-01",
    "2027-03-31",
    "2027-03-31T24:00:00+25:00",
    "0000-00-00",
    "/dev/zero",
    "/",
    ".",
    "..",
    "policy.yaml",
    "prefixes_file: a.txt\n",
    "exemptions_file: a.csv\n",
    "quarantine_file: a.csv\n",
    "timezone: Asia/Tokyo\n",
    "expires: ",
    "enforce_from: ",
    "hostname: a.jp\n",
    "within: []\n",
    "shared: true\n",
    "allow_any: true\n",
    "name: a\n",
    "prefix",
    "relays",
    "expires",
];

/// xorshift64*: enough for choosing.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end.max(1)
    }

    fn span(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        start..(start + self.below(40)).min(length)
    }

    fn mutate(&mut self, text: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(text.len() + 1);
        match self.below(7) {
            0 if !text.is_empty() => {
                let at = self.below(text.len());
                text[at] ^= 1 << self.below(8);
            }
            1 => {
                let span = self.span(text.len());
                text.drain(span);
            }
            2 => {
                let part = other[self.span(other.len())].to_vec();
                text.splice(at..at, part);
            }
            3 => {
                let span = self.span(text.len());
                let part = other[self.span(other.len())].to_vec();
                text.splice(span, part);
            }
            4 => {
                let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
                let line = lines.get(self.below(lines.len())).copied().unwrap_or_default().to_vec();
                let place: usize =
                    lines.iter().take(self.below(lines.len() + 1)).map(|line| line.len()).sum();
                let part = line.repeat(1 + self.below(3));
                text.splice(place..place, part);
            }
            5 => {
                let token = HOSTILE[self.below(HOSTILE.len())].repeat(1 + self.below(2) * self.below(200));
                text.splice(at..at, token.into_bytes());
            }
            _ => text.truncate(at),
        }
    }

    fn mutated(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut text = seeds[self.below(seeds.len())].clone();
        for _ in 0..1 + self.below(6) {
            let other = self.below(seeds.len());
            self.mutate(&mut text, &seeds[other]);
        }
        text
    }
}

fn seeds(directory: &Path, kinds: &[&str]) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let right =
        paths.iter().filter(|path| path.extension().is_some_and(|kind| kinds.iter().any(|one| kind == *one)));
    right.map(|path| fs::read(path).unwrap()).collect()
}

/// Reads a policy and complains of what no policy may do to it. Whether it was valid.
fn read(text: &[u8], path: &Path, what: &str) -> bool {
    let start = Instant::now();
    let text = String::from_utf8_lossy(text);
    let name = path.to_str().unwrap();
    let answer = match document::parse(&text, name) {
        Err(error) => Err(vec![error.to_string()]),
        Ok(document) => Policy::from_document(document, name, &text, &Override::default())
            .map_err(|invalid| invalid.errors),
    };
    assert!(start.elapsed() < LIMIT, "{what} takes {:?}: {text:?}", start.elapsed());
    let notes = match &answer {
        Ok(policy) => &policy.warnings,
        Err(errors) => {
            assert!(!errors.is_empty(), "{what}: refused without a word: {text:?}");
            errors
        }
    };
    for note in notes {
        assert!(note.len() < 4096 && !note.contains(char::is_control), "{what}: {note:?}");
        assert!(note.starts_with(path.parent().unwrap().to_str().unwrap()), "{what} names no file: {note:?}");
    }
    assert!(notes.len() < 150, "{what}: {} notes", notes.len());
    answer.is_ok()
}

#[test]
fn no_mutation_of_a_policy_stops_its_reader() {
    let seconds = std::env::var("OP25B_FUZZ_SECONDS").map_or(5, |seconds| seconds.parse().unwrap());
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let (texts, files) = (seeds(&policies, &["yaml"]), seeds(&policies, &["csv", "txt"]));
    assert!(texts.len() >= 3 && files.len() >= 2, "no seeds in {}", policies.display());
    // Thousands of small files: a disk would take most of the time.
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = directory.path().join("policy.yaml");
    for entry in fs::read_dir(&policies).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, directory.path().join(from.file_name().unwrap())).unwrap();
    }
    let with_files = b"version: 1\nrelays: []\nunknown_sources: pass\nipv6: unfiltered\nexemptions_file: a.csv\n\
        quarantine_file: b.csv\ncustomers:\n  - {name: a, mode: off, prefixes: [203.0.113.0/24], prefixes_file: a.txt}\n";
    let start = Instant::now();
    let (mut rounds, mut valid) = (0_u64, 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        rounds += 1;
        let mut chance = Chance(rounds.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let what = format!("round {rounds}");
        valid += usize::from(if chance.below(2) == 0 {
            read(&chance.mutated(&texts), &path, &what)
        } else {
            for file in ["a.txt", "a.csv", "b.csv"] {
                fs::write(directory.path().join(file), chance.mutated(&files)).unwrap();
            }
            read(with_files, &path, &what)
        });
    }
    println!("{rounds} rounds, {valid} of them valid");
    assert!(rounds > 100 && valid > 0, "{rounds} rounds, {valid} of them valid");
}
