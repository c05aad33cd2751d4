//! Processes that end with their test.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use super::wait_for;

/// A child that is killed when it goes out of scope. Its standard error is kept in a file for messages.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs in `log`.
    #[track_caller]
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Self::spawn(command, log)
    }

    #[track_caller]
    fn spawn(command: &mut Command, log: &Path) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error} (scripts/setup installs it)"));
        Self { child, name, log: log.to_path_buf() }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Panics when the process is gone already.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} ended with {status}:\n{}", self.name, self.log());
        }
    }

    pub fn signal(&self, signal: i32) {
        send_signal(self.pid(), signal);
    }

    /// Waits for its end; the exit code, or `None` when a signal ended it.
    #[track_caller]
    pub fn wait(&mut self, bound: Duration) -> Option<i32> {
        let what = format!("the end of {}", self.name);
        wait_for(&what, bound, || self.child.try_wait().unwrap()).code()
    }

    /// Kills it and waits until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("-- {} said:", self.name);
            tail.iter().rev().for_each(|line| eprintln!("   {line}"));
        }
    }
}

/// A child that speaks in lines of JSON and takes commands by lines.
pub struct Talker {
    process: Process,
    commands: ChildStdin,
    heard: Arc<Mutex<Vec<serde_json::Value>>>,
}

impl Talker {
    #[track_caller]
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::create(log).unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
        let mut process = Process::spawn(command, log);
        let commands = process.child.stdin.take().unwrap();
        let output = BufReader::new(process.child.stdout.take().unwrap());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ears = heard.clone();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Ok(value) = serde_json::from_str(&line) {
                    ears.lock().unwrap().push(value);
                }
            }
        });
        Self { process, commands, heard }
    }

    pub fn say(&mut self, line: &str) {
        // When it is gone, the next wait says so with its log.
        let _ = writeln!(self.commands, "{line}").and_then(|()| self.commands.flush());
    }

    /// Everything said so far.
    pub fn heard(&self) -> Vec<serde_json::Value> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits for a line for which `pick` gives a value, said since the `from`th line.
    #[track_caller]
    pub fn hear<T>(
        &mut self,
        what: &str,
        bound: Duration,
        from: usize,
        pick: impl Fn(&serde_json::Value) -> Option<T>,
    ) -> T {
        wait_for(what, bound, || {
            self.process.assert_alive();
            self.heard.lock().unwrap().iter().skip(from).find_map(&pick)
        })
    }

    /// The latest line for which `pick` gives a value.
    pub fn latest<T>(&self, pick: impl Fn(&serde_json::Value) -> Option<T>) -> Option<T> {
        self.heard.lock().unwrap().iter().rev().find_map(pick)
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Orphaned daemons become children of this test, so that it can wait for their exit status.
pub fn become_subreaper() {
    static ONCE: Once = Once::new();
    // SAFETY: prctl with constants, no pointers.
    ONCE.call_once(|| assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }, 0));
}

/// Sends a signal to a process that this test has started; a process that is gone already is fine.
pub fn send_signal(pid: i32, signal: i32) {
    assert!(pid > 1, "not a process of ours");
    // SAFETY: kill takes numbers only.
    unsafe { libc::kill(pid, signal) };
}

/// The exit code of a child (adopted ones too) if it has ended: `Some(None)` when a signal ended it.
pub fn try_reap(pid: i32) -> Option<Option<i32>> {
    let mut status = 0;
    // SAFETY: the status pointer is valid for the call.
    let got = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
    match got {
        0 => None,
        _ if got == pid && libc::WIFEXITED(status) => Some(Some(libc::WEXITSTATUS(status))),
        _ if got == pid => Some(None),
        // Not a child of ours (an ordinary user's session in between): gone when /proc says so.
        _ => (!Path::new(&format!("/proc/{pid}")).exists()).then_some(None),
    }
}

/// A process whose program is `program` and whose arguments hold `argument`.
pub fn find_process(program: &Path, argument: &Path) -> Option<i32> {
    let wanted = argument.as_os_str().as_encoded_bytes();
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let exe = std::fs::read_link(entry.path().join("exe")).ok()?;
        let arguments = std::fs::read(entry.path().join("cmdline")).ok()?;
        let state = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let alive = !matches!(state.rsplit(") ").next()?.chars().next()?, 'Z' | 'X');
        let ours = exe.file_name() == program.file_name() && arguments.split(|&byte| byte == 0).any(|a| a == wanted);
        (alive && ours).then_some(pid)
    })
}
