//! The modules of an unpacked kernel: which are needed, and in which order.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// The modules of one kernel, and what is built into it.
pub(super) struct Modules {
    files: HashMap<String, PathBuf>,
    builtin: Vec<String>,
}

/// A module as the kernel takes it.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) content: Vec<u8>,
}

impl Modules {
    /// Those in `folder`, where a kernel's package has them.
    pub(super) fn find(folder: &Path) -> Result<Self> {
        let mut files = HashMap::new();
        let mut folders = vec![folder.join("kernel")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Some(name) = module_name(&path) {
                    files.insert(name, path);
                }
            }
        }
        let builtin = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
        let builtin = builtin.lines().filter_map(|line| module_name(Path::new(line))).collect();
        Ok(Self { files, builtin })
    }

    /// The wanted ones that are modules here, each after those that it depends on.
    pub(super) fn in_order(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let mut ordered = Vec::new();
        for name in wanted {
            if self.files.contains_key(*name) {
                self.add(name, &mut ordered)?;
            }
        }
        Ok(ordered)
    }

    /// The wanted ones that this kernel does not have at all.
    pub(super) fn missing<'a>(&self, wanted: &[&'a str]) -> Vec<&'a str> {
        let here =
            |name: &str| self.files.contains_key(name) || self.builtin.iter().any(|other| other == name);
        wanted.iter().copied().filter(|name| !here(name)).collect()
    }

    fn add(&self, name: &str, ordered: &mut Vec<Module>) -> Result<()> {
        if ordered.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let path = self.files.get(name).with_context(|| format!("the kernel has no module {name}"))?;
        let content = read(path).with_context(|| format!("cannot read {}", path.display()))?;
        for dependency in dependencies(&content) {
            self.add(&dependency, ordered)?;
        }
        ordered.push(Module { name: name.to_owned(), content });
        Ok(())
    }
}

/// What a file's module is called, if it is one. A file may have hyphens where the name has underscores.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let name = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().find_map(|ending| file.strip_suffix(ending))?;
    Some(name.replace('-', "_"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return Ok(fs::read(path)?),
    };
    let output = Command::new(program)
        .args(["-d", "-c"])
        .arg(path)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} failed, {}", output.status);
    }
    Ok(output.stdout)
}

/// What a module says of itself. Debian ships no list of dependencies; its tools make it on each machine.
fn dependencies(content: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = content.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = content[start + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_what_it_depends_on_and_only_once() -> Result<()> {
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("kernel"))?;
        for (file, content) in [
            ("8021q.ko", "ELF\0name=8021q\0depends=mrp,garp-x\0"),
            ("mrp.ko", "ELF\0depends=\0"),
            ("garp-x.ko", "ELF\0depends=mrp\0"),
            ("veth.ko", "ELF\0depends=\0"),
        ] {
            fs::write(folder.path().join("kernel").join(file), content)?;
        }
        fs::write(folder.path().join("modules.builtin"), "kernel/net/dummy.ko\n")?;
        let modules = Modules::find(folder.path())?;
        let wanted = ["8021q", "dummy", "pppoe", "mrp"];
        let ordered = modules.in_order(&wanted)?;
        assert_eq!(
            ordered.iter().map(|module| module.name.as_str()).collect::<Vec<_>>(),
            ["mrp", "garp_x", "8021q"]
        );
        assert_eq!(modules.missing(&wanted), ["pppoe"]);
        Ok(())
    }
}
