"""A seccomp filter for bubblewrap: the system calls that a sandboxed program is refused.

Namespaces, mounts and limits hide files, processes and the network. They do not hide what the
kernel shares by other means: key rings, watches on files that other processes open, memory that no
limit counts. The filter refuses the calls that lead there, for the program and all that it starts.

It lists what is refused and not what is allowed, so that no C library or version of numpy has to be
foreseen. Calls newer than the list are refused as calls that do not exist, which libraries know how
to do without. The format is that of `struct sock_filter` in linux/filter.h; the
data that a filter sees is `struct seccomp_data` in linux/seccomp.h.
"""

from __future__ import annotations

import errno
import functools
import struct

# Machine: (its number in linux/audit.h, the column of the tables below that holds its calls). All
# are little-endian with 64 bits. All except x86-64 share the numbering of asm-generic/unistd.h.
MACHINES = {
    "x86_64": (0xC000003E, 0),
    "aarch64": (0xC00000B7, 1),
    "riscv64": (0xC00000F3, 1),
    "loongarch64": (0xC0000102, 1),
}

# Call: (its number on x86-64, its number on the others); None if it does not exist there.
REFUSED = {
    # Keys of the user and of the session: read, revoked, left behind.
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # New namespaces, in which a process is root and mounts memory that no limit counts.
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # Memory that is in no file system and no address space.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmctl": (31, 195),
    "shmat": (30, 196),
    "shmdt": (67, 197),
    "semget": (64, 190),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "semop": (65, 193),
    "msgget": (68, 186),
    "msgctl": (71, 187),
    "msgrcv": (70, 188),
    "msgsnd": (69, 189),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184),
    "mq_getsetattr": (245, 185),
    # Watches and locks on the system's files, which tell of and stop the host's own processes.
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "flock": (73, 32),
    # Other processes' memory, descriptors and addresses.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # Large parts of the kernel that no tested function needs.
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "personality": (135, 92),
    "modify_ldt": (154, None),
    # The machine itself. These need capabilities too, which the program does not have.
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
}
# A filter cannot read memory, where clone3 has its flags. Without it the C library calls clone.
MISSING = {"clone3": (435, 435)}
NEWEST = 450  # set_mempolicy_home_node, of Linux 5.17: greater numbers are refused as missing
# Calls that are refused for some values of an argument.
CLONE, SOCKET, SOCKETPAIR, FCNTL = (56, 220), (41, 198), (53, 199), (72, 25)
NAMESPACES = 0x7E020000  # CLONE_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET
# Only AF_UNIX, AF_INET and AF_INET6 are allowed: AF_VSOCK, for one, ignores network namespaces.
FAMILIES = (1, 2, 10)
WATCHES = (1024, 1026)  # F_SETLEASE, F_NOTIFY: they watch files as inotify does

_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000


@functools.cache
def program(machine: str) -> bytes:
    """Returns the filter for `machine`, as `os.uname()` names it.

    A call in another machine's numbering (that of a 32-bit program on x86-64) ends the process.
    Raises KeyError if the machine is not one of MACHINES.
    """
    audit_number, column = MACHINES[machine]
    code = [_step(_LOAD, _MACHINE_AT), _step(_EQUAL, audit_number, 1, 0), _step(_RETURN, _KILL)]
    code += [_step(_LOAD, _NUMBER_AT), *_refuse_if(_GREATER, NEWEST, errno.ENOSYS)]
    for calls, error in ((REFUSED, errno.EPERM), (MISSING, errno.ENOSYS)):
        for numbers in calls.values():
            if (number := numbers[column]) is not None:
                code += _refuse_if(_EQUAL, number, error)
    namespaces = _refuse_if(_ANY_BIT, NAMESPACES, errno.EPERM)
    watches = [step for command in WATCHES for step in _refuse_if(_EQUAL, command, errno.EPERM)]
    families = [_step(_EQUAL, family, len(FAMILIES) - at) for at, family in enumerate(FAMILIES)]
    families += [_step(_RETURN, _ERROR | errno.EAFNOSUPPORT)]
    for call, argument, steps in (
        (CLONE, 0, namespaces),
        (FCNTL, 1, watches),
        (SOCKET, 0, families),
        (SOCKETPAIR, 0, families),
    ):
        # These calls look only at the low half of the argument, which is loaded here.
        steps = [_step(_LOAD, _ARGUMENTS_AT + 8 * argument), *steps, _step(_RETURN, _ALLOW)]
        code += [_step(_EQUAL, call[column], 0, len(steps)), *steps]
    return b"".join([*code, _step(_RETURN, _ALLOW)])


def _refuse_if(test: int, number: int, error: int) -> list[bytes]:
    """Returns steps that end the call with `error` if the loaded number passes the test."""
    return [_step(test, number, 0, 1), _step(_RETURN, _ERROR | error)]


def _step(code: int, number: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Returns one `struct sock_filter`.

    Args:
      code: the operation.
      number: its operand.
      if_true, if_false: how many steps to skip after a test that holds, or does not hold.
    """
    return struct.pack("<HBBI", code, if_true, if_false, number)
