"""The oldest kernel the broker promises to run on, 6.1: Debian 12's, booted in a virtual machine.

The kernel comes from Debian's archive, checked by apt against Debian's keys. It is emulated, not
accelerated, so that the check runs wherever qemu does; nothing here is a measurement. Inside, the
release binary looks at its machine, starts, takes records in and gives them back, is killed,
starts again with everything there, and stops cleanly.
"""

import os
import pathlib
import re
import shutil
import subprocess

from running import KEPT, Failure, demand, output

PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mkfs.ext4": "e2fsprogs",
    "objcopy": "binutils",
}
BUSYBOX = "/bin/busybox"
BUSYBOX_PACKAGE = "busybox-static"
SUITE = "bookworm"
KERNEL_PACKAGE = "linux-image-amd64"
OLDEST = "6.1."
# What stands between Debian's kernel and a file system on a virtual disk.
MODULES = ["crc32c_generic", "virtio_pci", "virtio_blk", "ext4"]
DISK_BYTES = 1 << 30
RECORDS = 20_000
GUEST_SECONDS = 600

# The first process of the guest: makes the disk its root.
FIRST = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t sysfs none /sys
for module in {modules}; do /bin/busybox modprobe $module || echo "guest: no module $module"; done
/bin/busybox mount -t ext4 /dev/vda /broker || echo "guest: no disk"
/bin/busybox mount --move /dev /broker/dev
/bin/busybox mount --move /proc /broker/proc
/bin/busybox mount --move /sys /broker/sys
exec /bin/busybox switch_root /broker /smoke
"""

# What the guest does then. What stands behind `guest:` is for the check.
SMOKE = """#!/bin/busybox sh
export PATH=/bin
say() {{ echo "guest: $*" > /dev/ttyS0; }}
busybox mount -t tmpfs none /tmp
busybox ip link set lo up
ulimit -n 4096
start() {{
    : > /tmp/out
    tidemill start --data-dir /data --shards 2 > /tmp/out 2>> /tmp/log &
    broker=$!
    until busybox grep -q ready /tmp/out; do
        busybox kill -0 $broker 2> /dev/null || {{ say "log $(busybox tail -n 5 /tmp/log)"; return; }}
        busybox usleep 50000
    done
    say "$1 $(busybox cat /tmp/out)"
}}
all() {{ tidemill consume -t text -e 2>> /tmp/log | busybox sort -n | busybox md5sum; }}

say "kernel $(busybox uname -r)"
tidemill check --data-dir /data > /tmp/probes 2>&1
say "check $?"
while read -r line; do say "probe $line"; done < /tmp/probes
start first
tidemill topic create text --partitions 4 >> /tmp/log 2>&1
say "topic $?"
busybox seq 1 {records} > /tmp/sent
tidemill produce -t text /tmp/sent >> /tmp/log 2>&1
say "produce $?"
say "sent $(busybox md5sum < /tmp/sent)"
say "read $(all)"
busybox kill -9 $broker
wait $broker
start second
say "again $(all)"
busybox kill -TERM $broker
wait $broker
say "stop $?"
say "end"
busybox sync
busybox poweroff -f
"""


def check(run):
    install()
    version, kernel, modules = fetched_kernel()
    demand(version.startswith(OLDEST), f"{SUITE}'s kernel is {version}, not {OLDEST}*")
    disk = make_disk(run)
    first = make_first(run, version, modules)
    console = boot(run, kernel, first, disk)
    said = {}
    # The firmware's last words may stand before the guest's first on the same line.
    for word, rest in re.findall(r"guest: (\S+)(.*)", console):
        said.setdefault(word, []).append(rest.strip())

    def one(word):
        demand(word in said, f"the guest never said {word!r}; its console: {run.dir / 'console'}")
        return said[word][0]

    demand(one("kernel") == version, f"the guest runs {one('kernel')}")
    for line in said.get("probe", []):
        run.say(f"{version}: {line}")
    demand(one("check") == "0", "tidemill check finds that this kernel cannot run it")
    demand("log" not in said, f"the broker ended: {said.get('log')}")
    demand(one("first").startswith("ready "), "it is ready")
    demand(one("topic") == "0" and one("produce") == "0", "a topic is made and records are taken")
    sent = one("sent")
    demand(one("read") == sent, f"{sent} was sent, {one('read')} came back")
    demand(one("second").startswith("ready "), "it is ready after a kill -9")
    demand(one("again") == sent, f"after a kill -9 {one('again')} came back")
    demand(one("stop") == "0", f"the clean stop ended with {one('stop')}")
    one("end")
    run.say(f"Linux {version}: {RECORDS} records came back, and again after a kill -9; clean stop")


def install():
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if not os.path.exists(BUSYBOX) or is_dynamic(BUSYBOX):
        missing.append(BUSYBOX_PACKAGE)
    if missing:
        rights = [] if os.geteuid() == 0 else ["sudo"]
        quiet = ["env", "DEBIAN_FRONTEND=noninteractive"]
        output([*rights, "apt-get", "update", "-qq"])
        output([*rights, *quiet, "apt-get", "install", "-y", "-qq", "--no-install-recommends",
                *missing])


def is_dynamic(program):
    return bool(libraries(program))


def libraries(program):
    """The shared libraries that a program loads, its loader among them; none if it is static."""
    done = subprocess.run(["ldd", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return sorted(set(re.findall(r"(/\S+) \(0x", done.stdout.decode())))


def fetched_kernel():
    """The version, the bootable image and the modules of Debian 12's kernel, fetched once."""
    kept = KEPT / "oldest-kernel"
    if not (kept / "complete").exists():
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        fetch_kernel(kept.absolute())
        (kept / "complete").touch()
    (image,) = (kept / "files/boot").glob("vmlinuz-*")
    version = image.name.removeprefix("vmlinuz-")
    return version, image, kept / "files/lib/modules" / version


def fetch_kernel(kept):
    """With an apt of its own, that knows this machine's mirror but only the one suite."""
    for folder in ["lists/partial", "archives/partial", "parts"]:
        (kept / folder).mkdir(parents=True)
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (kept / "sources.list").write_text(f"deb [signed-by={keys}] {mirror()} {SUITE} main\n")
    options = {
        "Dir::Etc::sourcelist": kept / "sources.list",
        "Dir::Etc::sourceparts": kept / "parts",
        "Dir::Etc::preferencesparts": kept / "parts",
        "Dir::State::lists": kept / "lists",
        "Dir::Cache": kept,
        "APT::Sandbox::User": "root",
        "APT::Architecture": "amd64",
        "Acquire::Languages": "none",
    }
    own = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    output(["apt-get", *own, "update", "-qq"])
    depends = output(["apt-cache", *own, "depends", KERNEL_PACKAGE]).decode()
    package = re.search(r"Depends: (linux-image-\S+)", depends)
    demand(package, f"{KERNEL_PACKAGE} of {SUITE} names no kernel: {depends!r}")
    fetch = ["apt-get", *own, "download", "-qq", package.group(1)]
    subprocess.run([str(word) for word in fetch], cwd=kept, check=True)
    (archive,) = kept.glob("linux-image-*.deb")
    output(["dpkg-deb", "--extract", archive, kept / "files"])
    archive.unlink()
    for folder in ["lists", "archives", "parts"]:
        shutil.rmtree(kept / folder)


def mirror():
    """Where this machine takes Debian's packages from."""
    form = ["--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian", "Label: Debian"]
    found = output(["apt-get", "indextargets", *form]).decode().split()
    demand(found, "apt knows no archive of Debian; this check needs one")
    return found[0]


def make_disk(run):
    """The guest's root: the binary, its libraries, a shell, and room for data."""
    root = run.dir / "root"
    for folder in ["bin", "dev", "proc", "sys", "tmp", "data"]:
        (root / folder).mkdir(parents=True)
    binary = pathlib.Path(os.environ["TIDEMILL_BIN"])
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for library in libraries(binary):
        place = root / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)
    # Without what only a debugger needs it is a tenth of its size.
    output(["objcopy", "--strip-debug", binary, root / "bin/tidemill"])
    (root / "smoke").write_text(SMOKE.format(records=RECORDS))
    (root / "smoke").chmod(0o755)
    disk = run.dir / "disk.img"
    with open(disk, "wb") as file:
        file.truncate(DISK_BYTES)
    output(["mkfs.ext4", "-q", "-F", "-d", root, disk])
    return disk


def make_first(run, version, modules):
    """The first file system: what is needed to reach the disk."""
    root = run.dir / "first"
    for folder in ["bin", "dev", "proc", "sys", "broker"]:
        (root / folder).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    here = root / "lib/modules" / version
    for name in needed_modules(modules):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(modules / name, here / name)
    output([BUSYBOX, "depmod", "-b", root, version])
    (root / "init").write_text(FIRST.format(modules=" ".join(MODULES)))
    (root / "init").chmod(0o755)
    archive = run.dir / "first.cpio"
    with open(archive, "wb") as file:
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        subprocess.run([BUSYBOX, "cpio", "-o", "-H", "newc"], cwd=root, check=True, stdout=file,
                       input=names.encode(), stderr=subprocess.DEVNULL)
    return archive


def needed_modules(modules):
    """The files of MODULES and of all they depend on, by what each says of itself."""
    files = {path.stem.replace("-", "_"): path for path in modules.rglob("*.ko")}
    left, found = [*MODULES], {}
    while left:
        name = left.pop()
        if name in found:
            continue
        demand(name in files, f"the kernel has no module {name}")
        found[name] = files[name].relative_to(modules)
        depends = re.search(rb"\0depends=([^\0]*)\0", files[name].read_bytes())
        left += [other.replace("-", "_") for other in depends.group(1).decode().split(",") if other]
    return found.values()


def boot(run, kernel, first, disk):
    """Runs the guest to its end and returns what stood on its console."""
    command = [
        "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "2048",
        "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio",
        "-kernel", kernel, "-initrd", first,
        "-append", "console=ttyS0 quiet panic=-1",
        "-drive", f"file={disk},format=raw,if=virtio,cache=writeback",
    ]
    console = run.dir / "console"
    with open(console, "wb") as file:
        guest = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                                 stdout=file, stderr=subprocess.STDOUT)
        run.at_end.append(guest.kill)
        try:
            guest.wait(GUEST_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failure(f"the guest did not end; its console: {console}") from None
    return console.read_text(errors="replace").replace("\r", "")
