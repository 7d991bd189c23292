//! The cage that the built-in proxy puts itself into before it meets the network.
//!
//! A proxy reads bytes of strangers all day. What it needs of the kernel is little: sockets, memory, threads, the time,
//! and a few files to find names. So it gives up the rest at its start, when it is one thread and has not read a byte:
//! privileges that a program could regain (no-new-privileges), all capabilities, all files but some that it reads
//! (Landlock), and all system calls that it does not make (seccomp). It keeps the right to open sockets, because its
//! settings change while it runs.
//!
//! Kernels differ. What one cannot do is left out, and one line says what is in force. A system call that is not allowed
//! answers that there is no such call, as an older kernel would: libraries know how to go on then.

use std::collections::BTreeMap;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
    path_beneath_rules,
};
use lictor_proxy::SameNode;
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Set to `off` it leaves the cage out; the agent sets it by `connect.proxy_defaults.sandbox`.
pub(super) const SWITCH: &str = "LICTOR_PROXY_SANDBOX";

/// What finding names, the time zone and the trusted certificates of the system needs.
const READABLE: [&str; 12] = [
    "/etc",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/usr/share/ca-certificates",
    "/lib",
    "/lib64",
    "/run/systemd/resolve",
    "/run/NetworkManager",
    "/dev/null",
    "/dev/urandom",
    "/proc/self",
];

/// The newest Landlock that was tried.
const LANDLOCK: ABI = ABI::V6;

/// Enters the cage for good; gives the line that says what is in force. Call it while there is one thread.
pub(super) fn enter(readable: &[PathBuf], same_node: SameNode) -> String {
    if std::env::var_os(SWITCH).is_some_and(|value| value == "off") {
        return "sandbox: off".to_owned();
    }
    let mut parts = Vec::new();
    let mut add = |name: &str, outcome: Result<&str, String>| {
        parts.push(match outcome {
            Ok(how) => format!("{name} {how}"),
            Err(cause) => format!("{name} not possible here ({cause})"),
        });
    };
    add("no-new-privileges", rustix::thread::set_no_new_privs(true).map(|()| "on").map_err(|error| error.to_string()));
    add("capabilities", drop_capabilities().map(|()| "none").map_err(|error| error.to_string()));
    add("landlock", restrict_files(readable, same_node));
    add("seccomp", restrict_calls().map(|()| "on"));
    format!("sandbox: {}", parts.join(", "))
}

fn drop_capabilities() -> rustix::io::Result<()> {
    for number in 0..63 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        // Without the right to shrink the bounding set there is nothing in it that could be gained: see no-new-privileges.
        match rustix::thread::capability_is_in_bounding_set(capability) {
            Ok(true) => drop(rustix::thread::remove_capability_from_bounding_set(capability)),
            Ok(false) => {}
            // The kernel has no more.
            Err(_) => break,
        }
    }
    // Kernels without ambient capabilities have none to clear.
    let _ = rustix::thread::clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

fn restrict_files(readable: &[PathBuf], same_node: SameNode) -> Result<&'static str, String> {
    let restrict = || {
        let paths = READABLE.iter().map(PathBuf::from).chain(readable.iter().cloned());
        // Other proxies of the agent are met on abstract sockets. They are in cages of their own, so that this cannot be
        // narrowed to them; who does not meet them has no use for any.
        let scope = match same_node {
            SameNode::Direct => Scope::Signal.into(),
            SameNode::Mtls => Scope::Signal | Scope::AbstractUnixSocket,
        };
        let reading = AccessFs::ReadFile | AccessFs::ReadDir;
        Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(LANDLOCK))?
            .scope(scope)?
            .create()?
            .add_rules(path_beneath_rules(paths, reading))?
            .restrict_self()
    };
    match restrict() {
        Ok(status) => match status.ruleset {
            RulesetStatus::FullyEnforced => Ok("on"),
            RulesetStatus::PartiallyEnforced => Ok("partly on"),
            RulesetStatus::NotEnforced => Err("the kernel has none".to_owned()),
        },
        Err(error) => Err(error.to_string()),
    }
}

fn restrict_calls() -> Result<(), String> {
    let text = |error: seccompiler::BackendError| error.to_string();
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(text)?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_socket, FAMILIES.iter().map(|family| family_rule(*family)).collect::<Result<_, _>>()?);
    // Threads, never processes. Newer kernels have a call whose flags cannot be looked at, so it is not allowed, and
    // libraries fall back to this one.
    let thread = u64::try_from(libc::CLONE_THREAD).unwrap_or_default();
    let is_thread = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(thread), thread);
    rules.insert(libc::SYS_clone, vec![rule(is_thread.map_err(text)?)?]);
    let unknown = SeccompAction::Errno(u32::try_from(libc::ENOSYS).unwrap_or_default());
    let filter = SeccompFilter::new(rules, unknown, SeccompAction::Allow, architecture).map_err(text)?;
    let program: BpfProgram = filter.try_into().map_err(text)?;
    seccompiler::apply_filter(&program).map_err(|error| error.to_string())
}

/// Kinds of sockets: TCP, the agent's Unix socket, and the kernel's list of addresses, which finding names looks at.
const FAMILIES: [i32; 4] = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, libc::AF_NETLINK];

fn family_rule(family: i32) -> Result<SeccompRule, String> {
    let family = u64::try_from(family).unwrap_or_default();
    let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, family);
    rule(condition.map_err(|error| error.to_string())?)
}

fn rule(condition: SeccompCondition) -> Result<SeccompRule, String> {
    SeccompRule::new(vec![condition]).map_err(|error| error.to_string())
}

/// The calls of every architecture.
const EVERYWHERE: &[i64] = &[
    // Files and descriptors.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_statfs,
    libc::SYS_openat,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getcwd,
    libc::SYS_fadvise64,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    libc::SYS_splice,
    libc::SYS_tee,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_restart_syscall,
    // Sockets.
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    // Memory.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_membarrier,
    // Threads and signals within the process.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_prctl,
    // The time, and who we are.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getsid,
    libc::SYS_getpgid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getgroups,
    libc::SYS_getrusage,
    libc::SYS_getcpu,
    libc::SYS_prlimit64,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_pidfd_open,
];

/// Older forms that some architectures still have and libraries still use.
#[cfg(target_arch = "x86_64")]
const HERE: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_getdents,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_pipe,
    libc::SYS_dup2,
    libc::SYS_eventfd,
    libc::SYS_getrlimit,
    libc::SYS_setrlimit,
    libc::SYS_arch_prctl,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const HERE: &[i64] = &[];

static ALLOWED: std::sync::LazyLock<Vec<i64>> = std::sync::LazyLock::new(|| [EVERYWHERE, HERE].concat());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_used_to_break_out_is_not_allowed() {
        let dangerous = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone3,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_mount,
            libc::SYS_bpf,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_setuid,
            libc::SYS_kill,
            libc::SYS_unlinkat,
            libc::SYS_renameat2,
            libc::SYS_io_uring_setup,
            libc::SYS_keyctl,
            libc::SYS_userfaultfd,
        ];
        assert!(dangerous.iter().all(|call| !ALLOWED.contains(call)));
        let mut sorted = ALLOWED.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), ALLOWED.len(), "a call is named twice");
    }

    /// The version of Landlock that this kernel has, none below 1. Version 6 has all that we ask for. To be asked outside.
    fn kernels_landlock() -> i64 {
        const ASK_FOR_VERSION: libc::c_uint = 1;
        let nothing: *const libc::c_void = std::ptr::null();
        // SAFETY: with this flag the kernel reads and writes no memory of ours; it only answers a number.
        #[expect(unsafe_code, reason = "the library asks the kernel, but does not tell what it heard")]
        unsafe {
            libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, ASK_FOR_VERSION)
        }
    }

    /// Set in the process that is caged.
    const INSIDE: &str = "LICTOR_TEST_INSIDE_CAGE";

    #[test]
    fn inside_only_what_a_proxy_needs_is_possible() {
        use std::net::{TcpListener, TcpStream};
        let Some(outside) = std::env::var_os(INSIDE).map(PathBuf::from) else {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("secret"), "x").unwrap();
            std::fs::write(folder.path().join("allowed.pem"), "x").unwrap();
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
            use std::os::linux::net::SocketAddrExt;
            let name = folder.path().as_os_str().as_encoded_bytes();
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
            let _listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
            assert!(std::os::unix::net::UnixStream::connect_addr(&address).is_ok());
            let mut users = vec![Vec::new()];
            if rustix::process::geteuid().is_root() && lictor_testkit::program::find("setpriv").is_some() {
                users.push(vec!["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
            }
            for user in users {
                let test = "cli::connect_proxy::sandbox::tests::inside_only_what_a_proxy_needs_is_possible";
                let own = std::env::current_exe().unwrap();
                let mut words: Vec<std::ffi::OsString> = user.iter().map(Into::into).collect();
                words.push(own.into());
                words.extend([test, "--exact", "--nocapture"].map(Into::into));
                let output = std::process::Command::new(&words[0])
                    .args(&words[1..])
                    .env(INSIDE, folder.path())
                    .output()
                    .unwrap();
                let text =
                    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                assert!(output.status.success() && text.contains("1 passed"), "{user:?}: {text}");
            }
            return;
        };
        let landlock = kernels_landlock();
        let told = enter(&[outside.join("allowed.pem")], SameNode::Mtls);
        let status = std::fs::read_to_string("/proc/thread-self/status")
            .or_else(|_| std::fs::read_to_string("/proc/self/status"))
            .unwrap_or_default();
        println!("{told}");
        // What every kernel can.
        assert!(told.contains("no-new-privileges on") && told.contains("capabilities none"), "{told}");
        assert!(told.contains("seccomp on"), "{told}");
        assert_eq!(rustix::thread::no_new_privs(), Ok(true));
        let capabilities = rustix::thread::capabilities(None).unwrap_or_else(|_| CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        });
        assert!(capabilities.effective.is_empty() && capabilities.permitted.is_empty(), "{status}");
        // What it says of Landlock is what the kernel says of itself: nothing is left out in silence.
        let wanted = match landlock {
            ..1 => "landlock not possible here",
            1..6 => "landlock partly on",
            6.. => "landlock on",
        };
        assert!(told.contains(wanted), "{wanted:?} is not in {told:?}");
        if landlock > 0 {
            for denied in ["secret", "new"] {
                assert!(std::fs::read(outside.join(denied)).is_err(), "{denied}");
            }
            assert!(std::fs::write(outside.join("new"), "x").is_err());
            assert_eq!(std::fs::read(outside.join("allowed.pem")).unwrap(), b"x");
        }
        if landlock >= 6 {
            // It was opened outside, by the process that started this one.
            use std::os::linux::net::SocketAddrExt;
            let outside = std::os::unix::net::SocketAddr::from_abstract_name(outside.as_os_str().as_encoded_bytes());
            assert!(std::os::unix::net::UnixStream::connect_addr(&outside.unwrap()).is_err());
        }
        assert!(std::fs::read("/etc/passwd").is_ok());
        assert!(std::process::Command::new("/bin/true").status().is_err(), "a program was started");
        // What a proxy does.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
        assert!(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().is_ok());
        assert!(std::os::unix::net::UnixDatagram::unbound().is_ok());
        assert!(std::net::ToSocketAddrs::to_socket_addrs("localhost:1").is_ok_and(|mut all| all.next().is_some()));
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random).unwrap();
    }
}
