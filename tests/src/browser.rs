//! A headless Chromium, driven by the WebDriver protocol.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{command::run, netns::Namespace, process::Process, wait};

/// Chromium takes its time on a busy machine.
const START: Duration = Duration::from_secs(30);
/// Where chromedriver listens, in its namespace.
const DRIVER: &str = "http://127.0.0.1:9515";

/// A browser with one page. It has a network namespace's network only, and a
/// profile that begins empty.
#[derive(Debug)]
pub struct Browser {
    namespace: Namespace,
    session: String,
    // Killed when this is dropped; the browser ends with the namespace.
    _driver: Process,
}

impl Browser {
    /// Starts it; its profile and log are in `directory`.
    ///
    /// # Errors
    /// If chromedriver or Chromium doesn't start.
    pub fn start(namespace: &Namespace, directory: &Path) -> Result<Self> {
        let mut command = namespace.command("chromedriver");
        command.arg("--port=9515").env("HOME", directory);
        let mut driver = Process::spawn(&mut command, &directory.join("chromedriver.log"))?;
        driver.wait_for_line("started successfully", START)?;
        let mut browser = Self {
            namespace: namespace.clone(),
            session: String::new(),
            _driver: driver,
        };
        let created = browser.request("POST", "", &capabilities(&directory.join("profile")))?;
        let id = created["sessionId"].as_str().context("no session")?;
        browser.session = format!("/{id}");
        Ok(browser)
    }

    /// Opens a page, and waits until it is loaded.
    ///
    /// # Errors
    /// If it can't be.
    pub fn open(&self, url: &str) -> Result<()> {
        self.request("POST", "/url", &json!({ "url": url }))
            .map(drop)
    }

    /// The value of a JavaScript expression.
    ///
    /// # Errors
    /// If it throws, or its value isn't a `T`.
    pub fn evaluate<T: DeserializeOwned>(&self, expression: &str) -> Result<T> {
        let script = json!({ "script": format!("return {expression}"), "args": [] });
        let value = self.request("POST", "/execute/sync", &script)?;
        Ok(T::deserialize(value)?)
    }

    /// Waits until a JavaScript expression is true.
    ///
    /// # Errors
    /// If it isn't within `timeout`, with the page's text.
    pub fn wait_until(&self, expression: &str, timeout: Duration) -> Result<()> {
        wait::until(expression, timeout, || {
            Ok(self.evaluate::<bool>(expression)?.then_some(()))
        })
        .with_context(|| {
            self.evaluate::<String>("document.body.innerText")
                .unwrap_or_default()
        })
    }

    /// Makes the page so many pixels wide and high, and dark or light.
    ///
    /// # Errors
    /// If Chromium refuses.
    pub fn look(&self, (width, height): (u32, u32), dark: bool) -> Result<()> {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.command("Emulation.setDeviceMetricsOverride", &metrics)?;
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.command(
            "Emulation.setEmulatedMedia",
            &json!({ "features": features }),
        )
    }

    /// Writes a picture of the page as PNG.
    ///
    /// # Errors
    /// If there is none, or the file can't be written.
    pub fn screenshot(&self, path: &Path) -> Result<()> {
        let picture = self.request("GET", "/screenshot", &Value::Null)?;
        let picture = picture.as_str().context("no picture")?;
        fs::write(path, STANDARD.decode(picture)?)?;
        Ok(())
    }

    /// What the page has had to complain of since it was last asked.
    ///
    /// # Errors
    /// If Chromium doesn't say.
    pub fn complaints(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Entry {
            message: String,
        }
        let log = self.request("POST", "/se/log", &json!({ "type": "browser" }))?;
        let entries: Vec<Entry> = serde_json::from_value(log)?;
        Ok(entries.into_iter().map(|entry| entry.message).collect())
    }

    /// Calls a method of the DevTools protocol.
    fn command(&self, method: &str, parameters: &Value) -> Result<()> {
        let command = json!({ "cmd": method, "params": parameters });
        self.request("POST", "/goog/cdp/execute", &command)
            .map(drop)
    }

    fn request(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let url = format!("{DRIVER}/session{}{path}", self.session);
        let mut curl = self.namespace.command("curl");
        curl.args(["-sS", "--max-time", "60", "-X", method]);
        if !body.is_null() {
            curl.args([
                "-H",
                "Content-Type: application/json",
                "-d",
                &body.to_string(),
            ]);
        }
        let answer = run(curl.arg(&url))?;
        let mut answer: Value = serde_json::from_str(&answer).context("chromedriver's answer")?;
        let value = answer["value"].take();
        if let Some(error) = value["error"].as_str() {
            anyhow::bail!("{error}: {}", value["message"]);
        }
        Ok(value)
    }
}

fn capabilities(profile: &Path) -> Value {
    let profile = format!("--user-data-dir={}", profile.display());
    let arguments = [
        "--headless",
        // Tests run as root, which Chromium's sandbox can't.
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        &profile,
    ];
    json!({ "capabilities": { "alwaysMatch": {
        "browserName": "chrome",
        "goog:chromeOptions": { "binary": "/usr/bin/chromium", "args": arguments },
        "goog:loggingPrefs": { "browser": "ALL" },
    } } })
}
