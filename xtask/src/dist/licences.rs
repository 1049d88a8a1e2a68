//! The licence texts of everything that is linked into op25b: most of them want to go with it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::exec::read;

/// What a file is called that has a licence or who wrote it.
const NAMES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

/// A package that is linked in.
struct Package {
    name: String,
    version: String,
    licence: String,
    folder: PathBuf,
}

/// Writes all of them into one file.
pub(super) fn write(workspace: &Path, path: &Path) -> Result<()> {
    let packages = linked(workspace)?;
    // The same text, word for word, is in many packages: once is enough.
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut all = String::from(
        "What is linked into op25b, under which licence, and the texts of these licences. A package without a text\n\
         of its own has the one that its licence's name stands for.\n\n",
    );
    for package in &packages {
        let title = format!("{} {}", package.name, package.version);
        let _ = writeln!(all, "{title}: {}", package.licence);
        for text in found(&package.folder)? {
            texts.entry(text).or_default().push(title.clone());
        }
    }
    let mut texts: Vec<(String, Vec<String>)> = texts.into_iter().collect();
    texts.sort_by(|one, other| one.1.cmp(&other.1).then(one.0.cmp(&other.0)));
    for (text, titles) in texts {
        let _ = write!(all, "\n{}\n{}\n\n{}\n", "=".repeat(80), titles.join(", "), text.trim());
    }
    fs::write(path, all).with_context(|| format!("cannot write {}", path.display()))
}

/// The packages of others that are in the program, without those that only build or test it.
fn linked(workspace: &Path) -> Result<Vec<Package>> {
    let tree = read(
        Command::new("cargo")
            .current_dir(workspace)
            .args(["tree", "--locked", "--package", "op25b-user", "--edges", "normal"])
            .args(["--prefix", "none", "--no-dedupe", "--format", "{p}"]),
    )?;
    let metadata = read(Command::new("cargo").current_dir(workspace).args([
        "metadata",
        "--locked",
        "--format-version=1",
    ]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is no JSON")?;
    let known = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let mut packages = BTreeMap::new();
    for line in tree.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(version)) = (words.next(), words.next()) else { continue };
        let version = version.trim_start_matches('v');
        let Some(package) = known.iter().find(|known| known["name"] == name && known["version"] == version)
        else {
            bail!("cargo tree has {line:?}, cargo metadata has not");
        };
        // Without a source: one of op25b's own.
        if package["source"].is_null() {
            continue;
        }
        let manifest = package["manifest_path"].as_str().map(Path::new);
        let folder = manifest.and_then(Path::parent).with_context(|| format!("where is {name}?"))?;
        let licence = match package["license"].as_str() {
            Some(licence) => licence.to_owned(),
            None => bail!("{name} {version} names no licence; look at it before it is given to others"),
        };
        packages.insert(
            (name.to_owned(), version.to_owned()),
            Package {
                name: name.to_owned(),
                version: version.to_owned(),
                licence,
                folder: folder.to_owned(),
            },
        );
    }
    Ok(packages.into_values().collect())
}

/// The texts in a package's folder.
fn found(folder: &Path) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for file in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let file = file?;
        let name = file.file_name().to_string_lossy().to_uppercase();
        if NAMES.iter().any(|wanted| name.starts_with(wanted)) && file.path().is_file() {
            // Some are not in UTF-8, for the sake of a name.
            texts.push(String::from_utf8_lossy(&fs::read(file.path())?).replace('\r', ""));
        }
    }
    texts.sort();
    Ok(texts)
}
