//! A real Chromium, driven by Debian's chromedriver in a namespace; it must not know what is tried.

use std::{
    fs,
    net::TcpStream,
    path::PathBuf,
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use fantoccini::{Client, ClientBuilder, wd::WebDriverCompatibleCommand};
use hyper::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use url::{ParseError, Url};

use crate::lab::{Namespace, eventually};

const DRIVER: &str = "127.0.0.1:9515";

/// A browser, ended when dropped.
pub(crate) struct Chromium<'n> {
    namespace: &'n Namespace,
    runtime: Runtime,
    client: Option<Client>,
    driver: Child,
    _profile: TempDir,
}

/// A command of the DevTools protocol, by which media and screens are emulated.
#[derive(Debug)]
struct Devtools(Value);

impl WebDriverCompatibleCommand for Devtools {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _url: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.0.to_string()))
    }
}

impl<'n> Chromium<'n> {
    /// Starts one that sees only what the namespace sees.
    pub(crate) fn start(namespace: &'n Namespace) -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let driver = namespace
            .command("chromedriver")?
            .arg("--port=9515")
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start chromedriver; install the packages that tests/README.md names")?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let mut this = Self { namespace, runtime, client: None, driver, _profile: profile };
        let listens = || namespace.within(|| TcpStream::connect(DRIVER)).is_ok_and(|tried| tried.is_ok());
        ensure!(eventually(listens), "chromedriver does not listen");
        let arguments = [
            "--headless".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-quic".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--hide-scrollbars".to_owned(),
            format!("--user-data-dir={}", this._profile.path().join("profile").display()),
        ];
        let wanted = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let Value::Object(wanted) = wanted else { unreachable!("it is an object") };
        let url = format!("http://{DRIVER}");
        let client = namespace.within(|| {
            let connect =
                async { ClientBuilder::new(HttpConnector::new()).capabilities(wanted).connect(&url).await };
            this.runtime.block_on(connect)
        })?;
        this.client = Some(client?);
        Ok(this)
    }

    fn act<T: Send>(&self, act: impl AsyncFnOnce(&Client) -> Result<T> + Send) -> Result<T> {
        let client = self.client.as_ref().context("no session")?;
        self.namespace.within(|| self.runtime.block_on(act(client)))?
    }

    /// Shows a page.
    pub(crate) fn goto(&self, url: &str) -> Result<()> {
        self.act(async |client| Ok(client.goto(url).await?))
    }

    /// What a script of the test returns; the page's policy does not bind it.
    pub(crate) fn run(&self, script: &str) -> Result<Value> {
        self.act(async |client| Ok(client.execute(script, Vec::new()).await?))
    }

    /// The text of an element as a person sees it.
    pub(crate) fn text(&self, css: &str) -> Result<String> {
        let text = self.run(&format!("return document.querySelector({})?.innerText ?? null", json!(css)))?;
        Ok(text.as_str().with_context(|| format!("no {css}"))?.to_owned())
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Result<Value> {
        let command = Devtools(json!({ "cmd": command, "params": parameters }));
        self.act(async |client| Ok(client.issue_cmd(command).await?))
    }

    /// Emulates a screen.
    pub(crate) fn screen(&self, width: u64, height: u64) -> Result<()> {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics).map(drop)
    }

    /// Emulates a person who likes it `dark` or `light`.
    pub(crate) fn scheme(&self, scheme: &str) -> Result<()> {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", &features).map(drop)
    }

    /// Emulates a person who reads these languages.
    pub(crate) fn reads(&self, languages: &str) -> Result<()> {
        self.devtools("Network.enable", &json!({}))?;
        let headers = json!({ "headers": { "Accept-Language": languages } });
        self.devtools("Network.setExtraHTTPHeaders", &headers).map(drop)
    }

    /// Presses a key, as a keyboard does.
    pub(crate) fn press(&self, key: &str, code: u32) -> Result<()> {
        for kind in ["rawKeyDown", "keyUp"] {
            let event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            self.devtools("Input.dispatchKeyEvent", &event)?;
        }
        Ok(())
    }

    /// Writes a picture of the whole page where `OP25B_SCREENSHOTS` names a directory.
    pub(crate) fn picture(&self, name: &str, width: u64) -> Result<()> {
        let Some(directory) = std::env::var_os("OP25B_SCREENSHOTS").map(PathBuf::from) else { return Ok(()) };
        self.screen(width, 800)?;
        // A test's own names are nobody's.
        self.run(
            "for (const code of document.querySelectorAll('#facts code')) {
               if (code.textContent.endsWith('/policy.yaml')) code.textContent = '/etc/op25b/policy.yaml';
               if (/^t\\d+-\\d+-/.test(code.textContent)) code.textContent = 'edge1';
             }",
        )?;
        let height = self.run("return Math.ceil(document.documentElement.getBoundingClientRect().height)")?;
        self.screen(width, height.as_u64().unwrap_or(800))?;
        let picture = self.act(async |client| Ok(client.screenshot().await?))?;
        let path = directory.join(name).with_extension("png");
        fs::write(&path, picture).with_context(|| format!("cannot write {}", path.display()))?;
        self.screen(width, 800)
    }
}

impl Drop for Chromium<'_> {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            let _ = self.namespace.within(|| self.runtime.block_on(client.close()));
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
