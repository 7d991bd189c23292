//! A filter of system calls for programs of which nobody knows what they need: they get all but those that no server makes.
//!
//! A list of what is allowed would be the tighter cage, and would break whatever such a program calls in its next version.
//! So this is a list of what is refused: calls by which a machine is administered, by which one process looks into
//! another, or which are hard to get right in the kernel and of no use to a server. Most need capabilities that an ordinary
//! user does not have, but new user namespaces give them to everybody, and a hole in the kernel is mostly reached by such a
//! call. Container runtimes refuse about the same by default.
//!
//! What is refused answers `EPERM`, as the kernel would to who may not. Programs mostly know how to go on then. The filter is
//! handed on to whatever the program starts, and cannot be taken off.

use std::io;

use libc::{BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

/// The calls that the program gets no answer to but `EPERM`, on every architecture.
const REFUSED: &[libc::c_long] = &[
    // What is mounted where.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Namespaces of others. New ones are looked for among the flags of `clone` and `unshare`.
    libc::SYS_setns,
    // What code the kernel runs.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    KEXEC_FILE_LOAD,
    libc::SYS_bpf,
    // The machine as a whole: power, swap, accounting, quotas, name, log and clock.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    QUOTACTL_FD,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    // Other processes: their memory and their descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Keys, which are kept by user and not by process.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Files past the permissions of the folders they are in, and everybody's accesses.
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // For debuggers and virtual machines, and the way by which many holes were used.
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    // It makes other calls in ways that no filter sees. Those who can use it can do without, as in containers.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Long out of use.
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
];

/// Those that only this architecture has: ports of the machine, 16-bit segments, and what is long out of use.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[libc::c_long] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_sysfs,
    libc::SYS_ustat,
    libc::SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[libc::c_long] = &[];

// Calls that the library does not name everywhere. From 424 on the numbers are the same on all architectures.
const OPEN_TREE_ATTR: libc::c_long = 467;
const QUOTACTL_FD: libc::c_long = 443;
#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: libc::c_long = 320;
#[cfg(not(target_arch = "x86_64"))]
const KEXEC_FILE_LOAD: libc::c_long = 294;

/// What the kernel calls the architecture that this is compiled for; none where nobody has looked at the numbers and at the
/// order of the words of an argument.
const ARCHITECTURE: Option<u32> = if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
    Some(0xC000_003E)
} else if cfg!(all(target_arch = "aarch64", target_endian = "little", target_pointer_width = "64")) {
    Some(0xC000_00B7)
} else if cfg!(target_arch = "riscv64") {
    Some(0xC000_00F3)
} else {
    None
};

/// Set in the numbers of x32, which are calls of x86-64 otherwise.
const X32: u32 = 0x4000_0000;

/// The flags that make new namespaces, without that of time, whose bit is part of the signal in `clone`.
const NEW_NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;
const NEW_TIME_NAMESPACE: i32 = 0x80;

/// The kinds of sockets that servers have. Others mean a module that the kernel loads for whoever asks.
const FAMILIES: &[i32] =
    &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET, libc::AF_VSOCK];

/// Of `personality`: what it is now, and what every program has.
const PERSONALITIES: &[u32] = &[0xFFFF_FFFF, 0];

/// A filter, made where memory may be had and entered where it may not.
#[derive(Debug)]
pub(crate) struct Filter(Vec<sock_filter>);

/// How an instruction goes on that looks at one value.
enum When {
    Is(u32),
    AtLeast(u32),
    HasOneOf(u32),
}

impl Filter {
    /// None on an architecture that nobody has looked at.
    pub(crate) fn new() -> Option<Filter> {
        let architecture = ARCHITECTURE?;
        let mut filter = Filter(Vec::new());
        filter.load(std::mem::offset_of!(libc::seccomp_data, arch));
        // A program of 32 bits has other numbers for the same calls. That SIGSYS ends it is plainer than what it would do if
        // no call of it worked.
        filter.skip(&When::Is(architecture), 1, 0);
        filter.answer(libc::SECCOMP_RET_KILL_PROCESS);
        filter.load(std::mem::offset_of!(libc::seccomp_data, nr));
        if cfg!(target_arch = "x86_64") {
            // As most kernels do, which are built without it.
            filter.answer_when(&When::AtLeast(X32), refusal(libc::ENOSYS));
        }
        for call in REFUSED.iter().chain(REFUSED_HERE) {
            filter.answer_when(&When::Is(number(*call)), refusal(libc::EPERM));
        }
        // Its flags are in memory, where nobody can look. Libraries fall back to `clone`.
        filter.answer_when(&When::Is(number(libc::SYS_clone3)), refusal(libc::ENOSYS));
        let looks = |filter: &mut Filter, flags: i32| {
            filter.answer_when(&When::HasOneOf(flags.cast_unsigned()), refusal(libc::EPERM));
        };
        filter.look_at_first_argument(libc::SYS_clone, |filter| looks(filter, NEW_NAMESPACES));
        filter.look_at_first_argument(libc::SYS_unshare, |filter| looks(filter, NEW_NAMESPACES | NEW_TIME_NAMESPACE));
        filter.look_at_first_argument(libc::SYS_personality, |filter| {
            for known in PERSONALITIES {
                filter.answer_when(&When::Is(*known), libc::SECCOMP_RET_ALLOW);
            }
            filter.answer(refusal(libc::EPERM));
        });
        for call in [libc::SYS_socket, libc::SYS_socketpair] {
            filter.look_at_first_argument(call, |filter| {
                for family in FAMILIES {
                    filter.answer_when(&When::Is(family.cast_unsigned()), libc::SECCOMP_RET_ALLOW);
                }
                filter.answer(refusal(libc::EAFNOSUPPORT));
            });
        }
        filter.answer(libc::SECCOMP_RET_ALLOW);
        Some(filter)
    }

    /// Puts the calling thread behind the filter for good. It must be one that may not gain privileges. A system call only.
    #[expect(unsafe_code, reason = "seccomp(2) has no safe form")]
    pub(crate) fn enter(&self) -> io::Result<()> {
        let length = u16::try_from(self.0.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
        // The kernel only reads it.
        let program = libc::sock_fprog { len: length, filter: self.0.as_ptr().cast_mut() };
        // Older kernels would make every branch of the program slower from here on, newer ones do not: this is no cage that
        // two strangers share.
        let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        // SAFETY: `program` tells where the instructions are and how many, both of which outlive the call; the kernel copies
        // them and checks each.
        let answer =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn add(&mut self, code: u32, value: u32, then: u8, otherwise: u8) {
        // The codes are below 256.
        self.0.push(sock_filter { code: u16::try_from(code).unwrap_or_default(), jt: then, jf: otherwise, k: value });
    }

    fn load(&mut self, from: usize) {
        self.add(BPF_LD | BPF_W | BPF_ABS, u32::try_from(from).unwrap_or(u32::MAX), 0, 0);
    }

    fn answer(&mut self, action: u32) {
        self.add(BPF_RET | BPF_K, action, 0, 0);
    }

    /// Leaves out as many instructions when it is so, and as many when it is not.
    fn skip(&mut self, when: &When, then: u8, otherwise: u8) {
        let (test, value) = match *when {
            When::Is(value) => (BPF_JEQ, value),
            When::AtLeast(value) => (BPF_JGE, value),
            When::HasOneOf(bits) => (BPF_JSET, bits),
        };
        self.add(BPF_JMP | test | BPF_K, value, then, otherwise);
    }

    fn answer_when(&mut self, when: &When, action: u32) {
        self.skip(when, 0, 1);
        self.answer(action);
    }

    /// What `inspect` says of the first argument of this call, and otherwise that it is allowed. It is a number of 32 bits
    /// in all of these calls but `clone`, whose flags are there too.
    fn look_at_first_argument(&mut self, call: libc::c_long, inspect: impl FnOnce(&mut Filter)) {
        let mut inner = Filter(Vec::new());
        inner.load(std::mem::offset_of!(libc::seccomp_data, args));
        inspect(&mut inner);
        inner.answer(libc::SECCOMP_RET_ALLOW);
        self.skip(&When::Is(number(call)), 0, u8::try_from(inner.0.len()).unwrap_or(u8::MAX));
        self.0.append(&mut inner.0);
    }
}

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

fn refusal(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers, as the kernel goes through it.
    fn answer(filter: &Filter, architecture: u32, call: u32, argument: u64) -> u32 {
        let mut bytes = [0u8; std::mem::size_of::<libc::seccomp_data>()];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(std::mem::offset_of!(libc::seccomp_data, nr), &call.to_ne_bytes());
        put(std::mem::offset_of!(libc::seccomp_data, arch), &architecture.to_ne_bytes());
        put(std::mem::offset_of!(libc::seccomp_data, args), &argument.to_ne_bytes());
        let (mut at, mut loaded) = (0, 0);
        loop {
            let step = filter.0[at];
            let code = u32::from(step.code);
            at += 1;
            let holds = match code {
                _ if code == BPF_LD | BPF_W | BPF_ABS => {
                    let from = usize::try_from(step.k).unwrap();
                    loaded = u32::from_ne_bytes(bytes[from..from + 4].try_into().unwrap());
                    continue;
                }
                _ if code == BPF_RET | BPF_K => return step.k,
                _ if code == BPF_JMP | BPF_JEQ | BPF_K => loaded == step.k,
                _ if code == BPF_JMP | BPF_JGE | BPF_K => loaded >= step.k,
                _ if code == BPF_JMP | BPF_JSET | BPF_K => loaded & step.k != 0,
                _ => panic!("{code:#x} is no instruction of ours"),
            };
            at += usize::from(if holds { step.jt } else { step.jf });
        }
    }

    #[test]
    fn every_call_gets_the_answer_of_its_kind_and_those_of_servers_go_through() {
        let Some(filter) = Filter::new() else { return };
        let architecture = ARCHITECTURE.unwrap();
        let says = |call: libc::c_long, argument: u64| answer(&filter, architecture, number(call), argument);
        let (allowed, eperm) = (libc::SECCOMP_RET_ALLOW, refusal(libc::EPERM));
        for call in REFUSED.iter().chain(REFUSED_HERE) {
            assert_eq!(says(*call, 0), eperm, "{call}");
        }
        // All others up to the newest, whatever they are asked, but for the few that are looked at.
        let looked_at = [libc::SYS_clone, libc::SYS_unshare, libc::SYS_personality, libc::SYS_socket];
        let looked_at = looked_at.iter().chain(&[libc::SYS_socketpair, libc::SYS_clone3]);
        let special: Vec<_> = REFUSED.iter().chain(REFUSED_HERE).chain(looked_at).copied().collect();
        for call in (0..600).filter(|call| !special.contains(call)) {
            for argument in [0, 0x10, u64::MAX] {
                assert_eq!(says(call, argument), allowed, "{call}");
            }
        }
        let mut sorted = special.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), special.len(), "a call is named twice");

        let of = |flags: i32| u64::from(flags.cast_unsigned());
        let thread = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
        for (call, argument, wanted) in [
            // Threads and processes, with their signal in the lowest byte.
            (libc::SYS_clone, of(thread), allowed),
            (libc::SYS_clone, of(libc::SIGCHLD), allowed),
            (libc::SYS_clone, of(libc::CLONE_NEWUSER | libc::SIGCHLD), eperm),
            (libc::SYS_clone, of(libc::CLONE_NEWNET), eperm),
            (libc::SYS_clone, of(libc::CLONE_NEWCGROUP), eperm),
            (libc::SYS_clone3, 0, refusal(libc::ENOSYS)),
            (libc::SYS_unshare, of(libc::CLONE_FS | libc::CLONE_FILES), allowed),
            (libc::SYS_unshare, of(libc::CLONE_NEWNS), eperm),
            (libc::SYS_unshare, of(NEW_TIME_NAMESPACE), eperm),
            (libc::SYS_personality, 0xFFFF_FFFF, allowed),
            (libc::SYS_personality, 0, allowed),
            // No longer at addresses that nobody can guess.
            (libc::SYS_personality, 0x0004_0000, eperm),
            (libc::SYS_socket, of(libc::AF_INET6), allowed),
            (libc::SYS_socketpair, of(libc::AF_UNIX), allowed),
            (libc::SYS_socket, of(libc::AF_ALG), refusal(libc::EAFNOSUPPORT)),
            // The kernel does not look at the upper half either.
            (libc::SYS_unshare, of(libc::CLONE_NEWNS) | 1 << 40, eperm),
            (libc::SYS_socket, of(libc::AF_ALG) | 1 << 40, refusal(libc::EAFNOSUPPORT)),
        ] {
            assert_eq!(says(call, argument), wanted, "{call} of {argument:#x}");
        }
    }

    #[test]
    fn calls_in_another_manner_are_no_way_around_it() {
        let Some(filter) = Filter::new() else { return };
        let architecture = ARCHITECTURE.unwrap();
        // That of 32-bit programs, whose numbers mean other calls.
        assert_eq!(answer(&filter, architecture & !0x8000_0000, 21, 0), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(answer(&filter, 0x4000_0003, number(libc::SYS_getpid), 0), libc::SECCOMP_RET_KILL_PROCESS);
        if cfg!(target_arch = "x86_64") {
            for call in [libc::SYS_mount, libc::SYS_getpid, libc::SYS_ptrace] {
                assert_eq!(answer(&filter, architecture, number(call) | X32, 0), refusal(libc::ENOSYS));
            }
        }
    }
}
