#!/usr/bin/env bash
# Patches the source of Bochs before it is built, so that Linux can use its AMX. Most edits concern how an operating
# system saves the tiles of its processes. Two change arithmetic. So the tests of int8 products, and of bf16 products
# near the smallest normal number, check the manual as it is read here rather than Bochs.
#
#   tests/amx/fix_bochs.sh path/to/bochs/source
#
# Written against the source of August 2026 (3.1, commit 783b58fd). An edit that changes nothing is an error.
set -euo pipefail
[ $# -eq 1 ] || { sed -n '2,8s/^# \?//p' "$0"; exit 2; }
cd "$1/cpu"

# edit FILE SCRIPT: applies a sed script, which must change the file.
edit() {
    sed -E "$2" "$1" >"$1.edited"
    ! cmp -s "$1" "$1.edited" || { echo "$1: nothing to edit by $2" >&2; exit 1; }
    mv "$1.edited" "$1"
}

# Arithmetic: treat signed bytes as signed. (All four byte products treat them as unsigned, contrary to Intel's manual
# and to GCC's tests of these instructions.)
edit avx/amx.cc '/ DPBDS[SU]\(/,/^}/ s/Bit32s\((xbyte\[.\])\)/Bit32s(Bit8s(\1))/
/ DPBD[SU]S\(/,/^}/ s/Bit32s\((ybyte\[.\])\)/Bit32s(Bit8s(\1))/'
# Arithmetic: flush a difference of numbers with the same exponent to zero only if it is subnormal. (Bochs also flushes
# differences from the smallest normal number to twice that number; processors do not.)
edit softfloat3e/s_subMagsF32.cc 's/^( +if \(!expZ \&\& )sigDiff\)/\1(sigDiff<<shiftDist) < 0x00800000)/'

# Save shapes in the layout in which they are loaded: bytes per row from byte 16 on, rows from byte 48 on. (Bochs swaps
# the two.)
edit xsave.cc '/::xsave_tilecfg_state\(/,/^}/ {
    s/(tilecfg\.vmm16u\(8\+n\) += .*\.)rows;/\1bytes_per_row;/
    s/(tilecfg\.vmmubyte\(48\+n\) = .*\.)bytes_per_row;/\1rows;/
}'
# Save all sixteen rows of a tile, not only the first eight.
edit xsave.cc 's/row < BX_TILE_REGISTERS/row < BX_TILE_MAX_ROWS/'
# Tiles are in use if any tile is in use.
edit xsave.cc 's/tile_use_tracker == 0\);.*/tile_use_tracker != 0);/'
# The size that CPUID reports for a compacted area includes the gaps before aligned parts. Linux compares it with its
# own.
edit cpuid.cc '/::get_std_cpuid_xsave_leaf\(/,$ b
/xsave_max_size_required_by_xsaves_features/,/^}/ s/^ +max_size \+= (xsave_restore\[n\])\.len;/    {\
      if (\1.attr \& BX_XSAVE_ALIGN64) max_size = (max_size + 63) \& ~63u;\
      max_size += \1.len;\
    }/'

# Add XFD, without which Linux does not offer the tiles. A process's first use of them raises #NM, so that Linux makes
# room.
edit cpuid.cc '/EAX\[4\] - support for XFD/,/EBX\[31:00\]/ s/^( +leaf->eax \|= \(1<<3\);)/\1\
    if (is_cpu_extension_supported(BX_ISA_AMX))\
      leaf->eax |= (1<<4);/'
edit crregs.cc 's/(XTILEDATA_BIT\]\.attr +=) BX_XSAVE_ALIGN64;/\1 BX_XSAVE_ALIGN64 | BX_XSAVE_XFD_SUPPORT;/'
edit avx/amx.h 's/start_row\(0\) \{\}/start_row(0), tile_use_tracker(0), xfd(0), xfd_err(0) {}/
s/^  unsigned tile_use_tracker;/&\
  Bit64u xfd, xfd_err; \/\/ MSRs IA32_XFD and IA32_XFD_ERR/'
amx_msrs='\
#if BX_SUPPORT_AMX\
    case BX_MSR_IA32_XFD:\
    case BX_MSR_IA32_XFD_ERROR:'
edit msr.cc 's|^#include "msr.h"|&\
#if BX_SUPPORT_AMX\
#include "avx/amx.h"\
#endif|
s/^  msr_desc\[BX_MSR_TSC\] = .*/&\
#if BX_SUPPORT_AMX\
  msr_desc[BX_MSR_IA32_XFD] = new MSR_Descriptor("MSR_IA32_XFD", BX_ISA_AMX, ~Bit64u(BX_XCR0_XTILEDATA_MASK));\
  msr_desc[BX_MSR_IA32_XFD_ERROR] = new MSR_Descriptor("MSR_IA32_XFD_ERR", BX_ISA_AMX, ~Bit64u(BX_XCR0_XTILEDATA_MASK));\
#endif/
/::rdmsr\(/,/^}/ s/^    switch\(index\) \{/&'"$amx_msrs"'\
      val64 = (index == BX_MSR_IA32_XFD) ? BX_CPU_THIS_PTR amx->xfd : BX_CPU_THIS_PTR amx->xfd_err;\
      break;\
#endif/
/::wrmsr\(/,/^}/ s/^    switch\(index\) \{/&'"$amx_msrs"'\
      if (index == BX_MSR_IA32_XFD) BX_CPU_THIS_PTR amx->xfd = val_64;\
      else BX_CPU_THIS_PTR amx->xfd_err = val_64;\
      handleAvxModeChange();\
      break;\
#endif/'
edit proc_ctrl.cc '/^#if BX_SUPPORT_AMX/,/^#endif/ {
    s/^( +\(~BX_CPU_THIS_PTR xcr0.*XTILEDATA_MASK\)\) != 0)\)/\1 ||\
      (BX_CPU_THIS_PTR amx != NULL \&\& BX_CPU_THIS_PTR amx->xfd != 0))/
    s/^  BX_ASSERT\(0\);/  if (BX_CPU_THIS_PTR amx->xfd != 0) {\
    BX_CPU_THIS_PTR amx->xfd_err = BX_XCR0_XTILEDATA_MASK;\
    exception(BX_NM_EXCEPTION, 0);\
  }\
\
&/
}
0,/^#include "cpu.h"/ s|^#include "cpu.h"|&\
#if BX_SUPPORT_AMX\
#include "avx/amx.h"\
#endif|'
