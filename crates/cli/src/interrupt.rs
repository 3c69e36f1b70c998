//! Ctrl-C and its kin. The first asks for a soft stop, the second ends at once; whoever is asked and does not come back
//! in time is not waited for: what is finished is stored, and nothing else is worth waiting for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static PATIENT: AtomicBool = AtomicBool::new(false);

/// A soft stop may take so long.
const GRACE: Duration = Duration::from_millis(1000);

/// True after the first ctrl-C.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// From now on a soft stop may take as long as it needs: a checkpoint is being written.
pub fn be_patient() {
    PATIENT.store(true, Ordering::SeqCst);
}

/// Watches SIGINT, SIGTERM and SIGHUP (unless `nohup` had it ignored), and turns SIGXFSZ into the error of the write
/// that met the limit.
#[cfg(unix)]
pub fn watch() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    let mut streams = Vec::new();
    {
        let _inside = runtime.enter();
        let hangup = (!is_ignored(1)).then_some(SignalKind::hangup());
        for kind in
            [Some(SignalKind::interrupt()), Some(SignalKind::terminate()), hangup].into_iter().flatten()
        {
            streams.extend(signal(kind));
        }
        // Once asked for, the signal no longer kills; nobody needs to hear of it.
        let _ = signal(SignalKind::from_raw(25));
    }
    std::thread::spawn(move || {
        let mut streams = streams;
        loop {
            runtime.block_on(std::future::poll_fn(|context| {
                match streams.iter_mut().any(|s| s.poll_recv(context).is_ready()) {
                    true => std::task::Poll::Ready(()),
                    false => std::task::Poll::Pending,
                }
            }));
            if INTERRUPTED.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        }
    });
}

/// Other systems have ctrl-C alone.
#[cfg(not(unix))]
pub fn watch() {
    std::thread::spawn(|| {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        while runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            if INTERRUPTED.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        }
    });
}

/// Whether this process was started with a signal ignored, where the system says.
#[cfg(unix)]
fn is_ignored(number: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).unwrap_or(0);
    mask >> (number - 1) & 1 == 1
}

/// The result of `work`, which runs on a thread with room for deep graphs; `None` if it panicked or was left behind by an
/// interrupt.
pub fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (send, receive) = std::sync::mpsc::channel();
    let started = std::thread::Builder::new().stack_size(256 << 20).spawn(move || {
        // Nobody listens any more after the grace has run out.
        let _ = send.send(work());
    });
    if started.is_err() {
        return None;
    }
    let mut asked: Option<Instant> = None;
    loop {
        match receive.recv_timeout(Duration::from_millis(50)) {
            Ok(result) => return Some(result),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return None,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
        }
        if interrupted() {
            let since = asked.get_or_insert_with(Instant::now).elapsed();
            if since > GRACE && !PATIENT.load(Ordering::SeqCst) {
                return None;
            }
        }
    }
}
