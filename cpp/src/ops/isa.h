// The namespace of the instruction set this file is compiled for. src/ops/*.cpp are built once per
// instruction set; everything they define lives in narrows::NARROWS_ISA_NAMESPACE so that the linker never
// mixes the copies.
#pragma once

#if defined(NARROWS_ISA_AVX512VNNI)
#define NARROWS_ISA_NAMESPACE isa_avx512vnni
#elif defined(NARROWS_ISA_AVX2)
#define NARROWS_ISA_NAMESPACE isa_avx2
#elif defined(NARROWS_ISA_GENERIC)
#define NARROWS_ISA_NAMESPACE isa_generic
#else
#error "src/ops is compiled with one of NARROWS_ISA_GENERIC, NARROWS_ISA_AVX2, NARROWS_ISA_AVX512VNNI"
#endif

// gcc 12 warns about the deliberately undefined operand inside its own AVX-512 headers (gcc PR 105593). This
// header comes before <immintrin.h>, so that the pragma covers it.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
