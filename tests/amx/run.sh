#!/usr/bin/env bash
# Runs tests of the kernels crate on an emulated processor with AMX: in Bochs, under a Linux with nothing else in it.
#
#   tests/amx/run.sh path/to/bochs path/to/vmlinuz [part of a test's name ...]
#
# Build Bochs from its source, which needs patches (fix_bochs.sh applies them and names the version):
#
#   tests/amx/fix_bochs.sh path/to/source && cd path/to/source &&
#   ./configure --with-nogui --enable-x86-64 --enable-avx --enable-evex --enable-amx --enable-all-optimizations \
#       --enable-protection-keys --enable-cet --enable-uintr --enable-vmx=2 && make
#
# A Linux of at least 5.16 with the serial console and initramfs built in, such as that of Debian's package
# linux-image-cloud-amd64. Also Debian's isolinux, syslinux-common, xorriso, cpio and busybox-static.
#
# The machine starts twice. The first time LATENTD_CPU=amx must be accepted and no test may skip AMX. The second time
# Linux permits no use of the tiles (clearcpuid), and the set must be missing. BXSHARE names the folder of BIOS images,
# by default bios next to bochs; TEST_BINARY names a test binary, built by default; TIME_LIMIT is the most seconds of
# each start.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
[ $# -ge 2 ] || { sed -n '2,18s/^# \?//p' "$0"; exit 2; }
bochs=$(realpath "$1") kernel=$(realpath "$2")
shift 2
bios=$(realpath "${BXSHARE:-$(dirname "$bochs")/bios}")
limit=${TIME_LIMIT:-3600}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

die() { printf '%s\n' "$1" >&2; exit 1; }

# Prints the path of the crate's unit tests.
build_tests() {
    (cd "$root" && cargo test --release --locked -p kernels --lib --no-run --message-format=json) |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

# The system without its init script: the tests, the libraries that they load, and a shell.
make_system() {
    local library
    mkdir -p "$work/system"/{bin,proc,sys,dev,tmp}
    cp "$(command -v busybox)" "$work/system/bin/busybox"
    strip -o "$work/system/tests" "$tests"
    ldd "$tests" | grep -o '/[^ ]*' | while read -r library; do
        install -D "$(realpath "$library")" "$work/system$library"
    done
}

# make_image "VARIABLE=VALUE ..." FEATURES TEST...: makes a disk that starts the system without these processor
# features, given by their numbers in Linux, and runs tests as its first process. Two threads share the one processor,
# so that tiles must survive context switches.
make_image() {
    local environment=$1 without=$2 never=0x7fffffffffff
    shift 2
    # If Linux uses `rep movsb` and `rep stosb`, Bochs overwrites its code, for an unknown reason. The features are
    # erms, fsrm and rep_good. The C library asks the processor itself.
    environment+=" GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=$never:glibc.cpu.x86_rep_stosb_threshold=$never"
    without=297,580,112${without:+,$without}
    cat >"$work/system/init" <<INIT
#!/bin/busybox sh
busybox mount -t proc none /proc
busybox mount -t sysfs none /sys
busybox mount -t devtmpfs none /dev
exec </dev/null >/dev/console 2>&1
echo "Linux \$(busybox uname -r), \$(busybox grep -m 1 'model name' /proc/cpuinfo)"
echo "has \$(busybox grep -o 'amx_[a-z0-9]*' /proc/cpuinfo | busybox sort -u | busybox xargs)"
RAYON_NUM_THREADS=2 RUST_BACKTRACE=0 $environment /tests --test-threads=1 --nocapture $*
echo "exit status of the tests: \$?"
# The output goes through a slow serial line.
busybox sleep 2
busybox poweroff -f
INIT
    chmod +x "$work/system/init"
    rm -rf "$work/disk" && mkdir "$work/disk"
    cp "$kernel" "$work/disk/vmlinuz"
    (cd "$work/system" && find . | cpio --quiet -o -H newc) >"$work/disk/initramfs"
    cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/disk"
    cat >"$work/disk/isolinux.cfg" <<BOOT
default linux
label linux
kernel vmlinuz
append initrd=initramfs console=ttyS0 mitigations=off nokaslr nosmap nosmep panic=-1 loglevel=4 clearcpuid=$without
BOOT
    xorriso -as mkisofs -quiet -o "$work/disk.image" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 \
        -boot-info-table -isohybrid-mbr /usr/lib/ISOLINUX/isohdpfx.bin "$work/disk" >"$work/xorriso.log" 2>&1 || die "$(cat "$work/xorriso.log")"
}

# Runs the machine until it powers off. Its output goes to a file and to stdout.
start() {
    cat >"$work/machine" <<MACHINE
romimage: file=$bios/BIOS-bochs-latest
vgaromimage: file=$bios/VGABIOS-lgpl/VGABIOS-lgpl-latest.bin
cpu: model=sapphire_rapids, count=1, ips=200000000, ignore_bad_msrs=1, reset_on_triple_fault=0
memory: guest=512, host=1024
clock: sync=none, time0=utc
display_library: nogui
boot: disk
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, mode=flat, path="$work/disk.image"
com1: enabled=1, mode=file, dev="$work/console"
log: $work/bochs.log
panic: action=fatal
MACHINE
    : >"$work/console"
    tail -n +1 -f "$work/console" &
    local tail=$!
    timeout "$limit" "$bochs" -q -f "$work/machine" >"$work/screen" 2>&1 </dev/null || true
    sleep 1
    kill "$tail"
    grep -q 'exit status of the tests: 0' "$work/console" || {
        tail -n 20 "$work/bochs.log" >&2
        die "the tests failed or did not finish"
    }
}

tests=${TEST_BINARY:-$(build_tests)}
[ $# -gt 0 ] || set -- cpu::amx cpu::bf16 cpu::int8 cpu::sets cpu::tile linear
make_system

make_image LATENTD_CPU=amx "" "$@"
start
! grep -q 'kernels not run here: no amx' "$work/console" || die "AMX was left out"

# 600 is amx_tile.
make_image LATENTD_CPU=auto 600 cpu::amx cpu::sets
start
grep -q 'kernels not run here: no amx' "$work/console" || die "AMX was used without the system's consent"
