// Tiles in software in place of Intel's AMX, so that dense.cc runs on processors without them.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define __AMX_BF16__ 1
#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(shapes) ((void)(shapes))
#define _tile_release() ((void)0)
#define _tile_zero(tile) std::memset(tiles[tile].bytes, 0, 1024)
#define _tile_loadd(tile, from, stride) load_tile(tile, from, stride)
#define _tile_stored(tile, to, stride) store_tile(tile, to, stride)
#define _tile_dpbf16ps(sum, left, right) multiply_tiles(sum, left, right)

struct SoftwareTile {
  alignas(64) char bytes[1024];
};
inline thread_local SoftwareTile tiles[8];

inline void load_tile(int tile, const void* from, int64_t stride) {
  for (int row = 0; row < 16; ++row)
    std::memcpy(tiles[tile].bytes + 64 * row, static_cast<const char*>(from) + row * stride, 64);
}

inline void store_tile(int tile, void* to, int64_t stride) {
  for (int row = 0; row < 16; ++row)
    std::memcpy(static_cast<char*>(to) + row * stride, tiles[tile].bytes + 64 * row, 64);
}

inline float from_bfloat16(uint16_t half) {
  const uint32_t bits = uint32_t{half} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void multiply_tiles(int sum, int left, int right) {
  float* c = reinterpret_cast<float*>(tiles[sum].bytes);
  const uint16_t* a = reinterpret_cast<const uint16_t*>(tiles[left].bytes);
  const uint16_t* b = reinterpret_cast<const uint16_t*>(tiles[right].bytes);
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < 32; ++k)
      for (int n = 0; n < 16; ++n)
        c[16 * m + n] += from_bfloat16(a[32 * m + k]) * from_bfloat16(b[32 * (k / 2) + 2 * n + k % 2]);
}
