// The matrix units of Intel's processors (AMX): eight tiles of 16 rows of 64 bytes.
#pragma once

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#include <immintrin.h>

#include <cstdint>

namespace bert {

// Shapes the calling thread's tiles, and gives them back.
struct Tiles {
  Tiles() {
    alignas(64) static const struct {
      uint8_t palette, start_row, reserved[14];
      uint16_t row_bytes[16];
      uint8_t rows[16];
    } kShapes = {1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&kShapes);
  }
  ~Tiles() { _tile_release(); }
};

}  // namespace bert
#endif
