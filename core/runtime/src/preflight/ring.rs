//! Probes of io_uring: may we have a ring, and does it do all that we ask of one?

use std::fs;
use std::io;

use io_uring::{Probe as Opcodes, opcode};

use super::Probe;
use crate::receive_buffers::ReceiveBuffers;
use crate::submission::Submission;

const NAME: &str = "io_uring";
const FEATURES: &str = "ring features";

/// Every operation a shard submits.
const OPCODES: [(u8, &str); 13] = [
    (opcode::AcceptMulti::CODE, "ACCEPT"),
    (opcode::Recv::CODE, "RECV"),
    (opcode::Send::CODE, "SEND"),
    (opcode::SendMsg::CODE, "SENDMSG"),
    (opcode::OpenAt::CODE, "OPENAT"),
    (opcode::Read::CODE, "READ"),
    (opcode::Write::CODE, "WRITE"),
    (opcode::Fsync::CODE, "FSYNC"),
    (opcode::Fallocate::CODE, "FALLOCATE"),
    (opcode::MsgRingData::CODE, "MSG_RING"),
    (opcode::AsyncCancel2::CODE, "ASYNC_CANCEL"),
    (opcode::Timeout::CODE, "TIMEOUT"),
    (opcode::Nop::CODE, "NOP"),
];

pub(super) fn probes() -> Vec<Probe> {
    match Submission::new(8) {
        Err(error) => vec![refused(&error, disabled_by_sysctl())],
        Ok(ring) => vec![Probe::ok(NAME, "a ring can be made"), features(&ring)],
    }
}

/// The value of `kernel.io_uring_disabled`; 0 if there is no such setting.
fn disabled_by_sysctl() -> u32 {
    let text = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn refused(error: &io::Error, disabled: u32) -> Probe {
    let (cause, fix) = match (error.raw_os_error(), disabled) {
        (Some(libc::EPERM), 1..) => (
            format!(
                "the administrator has turned io_uring off (kernel.io_uring_disabled = {disabled})"
            ),
            "sysctl -w kernel.io_uring_disabled=0        (as root; to keep it: a line in /etc/sysctl.d)",
        ),
        (Some(libc::EPERM | libc::EACCES), 0) => (
            "a seccomp filter blocks io_uring, as container runtimes do by default".to_owned(),
            "docker run --security-opt seccomp=unconfined …        (or a profile that allows io_uring_setup, \
             io_uring_enter and io_uring_register; Kubernetes: seccompProfile: Unconfined)",
        ),
        (Some(libc::ENOSYS), _) => (
            "there is no io_uring: it is not built into this kernel, or a sandbox hides it"
                .to_owned(),
            "boot a kernel with CONFIG_IO_URING=y, or run outside the sandbox (gVisor has no io_uring)",
        ),
        (Some(libc::EINVAL), _) => (
            "the kernel's io_uring is too old: SINGLE_ISSUER and DEFER_TASKRUN are missing"
                .to_owned(),
            "boot Linux 6.1 or newer",
        ),
        (Some(libc::ENOMEM), _) => (
            "there is not enough memory for a ring, or not enough may be locked".to_owned(),
            "ulimit -l 8192        (in systemd: LimitMEMLOCK=8M; in Docker: --ulimit memlock=8388608)",
        ),
        (Some(libc::EMFILE | libc::ENFILE), _) => (
            "too many files are open to make a ring".to_owned(),
            "ulimit -n 65536        (in systemd: LimitNOFILE=1048576)",
        ),
        _ => (format!("a ring cannot be made: {error}"), "strace -e io_uring_setup tidemill"),
    };
    Probe::cannot(NAME, cause, fix)
}

fn features(ring: &Submission) -> Probe {
    const FIX: &str = "boot Linux 6.1 or newer";
    let submitter = ring.submitter();
    let mut opcodes = Opcodes::new();
    if let Err(error) = submitter.register_probe(&mut opcodes) {
        return Probe::cannot(
            FEATURES,
            format!("the ring cannot be asked what it does: {error}"),
            FIX,
        );
    }
    let missing: Vec<_> = OPCODES
        .iter()
        .filter(|(code, _)| !opcodes.is_supported(*code))
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        return Probe::cannot(FEATURES, format!("missing: {}", missing.join(", ")), FIX);
    }
    let lent = match ReceiveBuffers::register(&submitter, 8) {
        Ok(lent) => lent,
        Err(error) => {
            return Probe::cannot(FEATURES, format!("no rings of provided buffers: {error}"), FIX);
        }
    };
    // The kernel has let go of the memory before it is freed.
    let outcome = lent.unregister(&submitter);
    match outcome.and_then(|()| submitter.register_files_sparse(8)) {
        Ok(()) => Probe::ok(FEATURES, "all there"),
        Err(error) => Probe::slower(FEATURES, format!("files cannot be registered: {error}"), FIX),
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::preflight::Verdict;

    #[test]
    fn each_way_to_refuse_a_ring_has_its_own_cure() {
        let refused = |errno, disabled| refused(&io::Error::from_raw_os_error(errno), disabled);
        assert!(refused(libc::EPERM, 2).fix.starts_with("sysctl -w"));
        assert!(refused(libc::EPERM, 0).fix.contains("seccomp"));
        assert!(refused(libc::ENOSYS, 0).cause.contains("not built into"));
        assert!(refused(libc::EINVAL, 0).cause.contains("too old"));
        assert!(refused(libc::ENOMEM, 0).fix.contains("ulimit -l"));
        assert_eq!(refused(libc::EBADF, 0).verdict, Verdict::Cannot);
    }

    #[test]
    fn this_kernel_has_all_features() {
        assert!(probes().iter().all(|probe| probe.verdict == Verdict::Ok));
    }
}
