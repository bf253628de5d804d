//! The real binary as a process: started, stopped, killed and started again on the same port and
//! the same data.
//!
//! Each broker has a directory of its own below the build directory, because direct I/O wants a
//! real file system. It is removed when the test ends well, and kept when it fails.

// Each test of the binary is a program of its own and uses some of this.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// The longest a broker may take to serve; a recovery of what a test leaves takes far less.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The longest a clean stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// Runs a command of the binary to its end.
pub(crate) fn tidemill(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Standard output of a command that must succeed.
pub(crate) fn output(arguments: &[&str], input: &str) -> String {
    let output = tidemill(arguments, input);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// One broker and its data.
pub(crate) struct Broker {
    dir: PathBuf,
    port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
    /// From the start of the process to the line that says it serves.
    pub(crate) ready_after: Duration,
    /// That line.
    ready: String,
}

impl Broker {
    /// Starts a broker named after its test, with further arguments of the command line.
    pub(crate) fn start(name: &str, arguments: &[&str]) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("the directory can be made");
        let mut broker = Self {
            dir,
            port: free_port(),
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            child: None,
            ready_after: Duration::ZERO,
            ready: String::new(),
        };
        broker.run();
        broker
    }

    /// Starts the process again, on the same port and data; the last one has ended.
    pub(crate) fn run(&mut self) {
        assert!(self.child.is_none(), "one process at a time");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("the log can be written");
        let start = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidemill"))
            .arg("start")
            .args(["--data-dir".as_ref(), self.data_dir().as_os_str()])
            .args(["--listen", &self.address()])
            .args(&self.arguments)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the binary was built with this test");
        let stdout = child.stdout.take().expect("it was asked for");
        self.child = Some(child);

        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout);
            let mut line = String::new();
            let read = lines.read_line(&mut line);
            let _ = sender.send(read.map(|_| line));
            // The pipe stays open, so that the broker can always write to it.
            let _ = lines.read_to_end(&mut Vec::new());
        });
        let line = receiver.recv_timeout(READY_WITHIN).expect("ready in time").unwrap();
        self.ready_after = start.elapsed();
        assert!(line.starts_with("ready "), "{line:?}; its log:\n{}", self.log());
        self.ready = line;
    }

    /// What follows `name` in the line that says it serves.
    pub(crate) fn ready_word(&self, name: &str) -> &str {
        let words = self.ready.split_whitespace();
        words.filter_map(|word| word.strip_prefix(name)).next().expect("the line has it")
    }

    /// Ends the process at once, as a power cut would; whatever it had not told is lost.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("SIGKILL can be sent");
        child.wait().expect("it ends");
    }

    /// Asks for a clean stop and waits for it.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        let told = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(told.expect("kill exists").success());
    }

    /// Waits for the end of a process that was asked to end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let deadline = Instant::now() + STOP_WITHIN;
        loop {
            if let Some(status) = child.try_wait().expect("it can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "no stop within {STOP_WITHIN:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The data directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What it said on stderr, all starts together.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("stderr.log")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the broker's data and log are kept in {}", self.dir.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// A port nobody uses now, below those the kernel hands out, and free 1000 above too. Tests that
/// run side by side, in this process or in another, try different ones.
fn free_port() -> u16 {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(997);
    loop {
        let tried = TRIED.fetch_add(1, Ordering::Relaxed);
        // Steps of 8: each broker may have so many shards beside it.
        let port = 12_000 + (first.wrapping_add(tried) % 2_000) as u16 * 8;
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(port) && (0..4).all(|shard| free(port + 1000 + shard)) {
            return port;
        }
    }
}
