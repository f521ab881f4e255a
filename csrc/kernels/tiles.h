// int8 products of many rows on AMX: 16 rows times 16 outputs times 64 columns in one instruction.
//
// A packed block already has the layout of a tile of weights (four columns of an output are one word, so 16 outputs are a row of the
// tile), and quantised rows that of a tile of activations: nothing is packed anew. The sums of a group of columns are the same
// integers as elsewhere and are scaled and added in the same order, so every output has the bits of the other tables.
//
// NOTE cost. A group of 16 rows and 32 outputs takes some 150 cycles, where `vpdpbusd` takes 300: two products of 16 cycles each, as much
// for every tile that is loaded or stored (those of the weights are shared by all rows), and 96 vector operations on two ports for the
// sums. int4 was no faster (groups of 32 columns: half as many products to a sum, and two terms to add), and has its tiles of vectors.
//
// Rows that do not fill a tile are computed twice, never read beyond: the last tile ends at the last row.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common.h"
#include "integers.h"
#include "kernels/prefetch.h"
#include "kernels/quantize.h"
#include "kernels/simd.h"

#if defined(DW_TILES)
namespace deepwell {
namespace DW_ISA {

constexpr int kTile = 16;       // rows of a tile, and its outputs
constexpr int kTileBytes = 64;  // of a row of a tile
constexpr int kTileDims = 32;   // of bf16 in it
constexpr int kTilesFrom = 8;   // rows from which on tiles are faster

// Tiles: 0 and 1 hold sums, 2 activations, 3 and 4 weights; 4 and 5 more sums of the roof.
struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};

// Of this thread, while a step runs that may use tiles.
struct TileState {
  bool on;
  int rows;  // that tiles of activations have, or kLatentTiles; 0: not configured
};
static thread_local TileState tile_state;

constexpr int kLatentTiles = -1;  // in place of a number of rows: tiles of latent attention (mla_tiles.h)
constexpr int kInt4Tiles = -2;    // those of a group of 32 columns

static void configure_tiles(int rows) {
  if (tile_state.rows == rows) return;
  TileConfig c;
  memset(&c, 0, sizeof c);
  c.palette = 1;
  for (int t = 0; t < 8; t++) c.bytes[t] = kTileBytes, c.rows[t] = t < 3 && rows > 0 ? rows : kTile;
  if (rows == kInt4Tiles) c.bytes[2] = c.bytes[4] = kTileBytes / 2, c.rows[3] = c.rows[5] = kTile / 2;
  if (rows == kLatentTiles) c.bytes[5] = kTileBytes / 2, c.rows[6] = kTile / 2;  // half as many columns
  DW_TILE_CONFIGURE(&c);
  tile_state.rows = rows;
}

// Lets one function of a table run with tiles.
struct TileScope {
  TileScope() { tile_state = {true, 0}; }
  ~TileScope() {
    if (tile_state.rows) DW_TILE_RELEASE();
    tile_state = {false, 0};
  }
};

DW_INLINE bool takes_tiles(int rows) { return rows >= kTilesFrom && tile_state.on; }

// The sums of one group of `n` rows (a constant where they fill a tile) and both halves of a panel -> y [n][32].
DW_INLINE void add_group(const float* scale, size_t groups, int n, const uint8_t* block, const int32_t* sums, float* y) {
  for (int c = 0; c < kPanel; c += W) {
    const vf d = load_half((const uint16_t*)block + c);
#pragma GCC unroll 16
    for (int r = 0; r < n; r++) {
      float* to = y + r * kPanel + c;
      store(to, fma(to_float(load_bytes(sums + c * kTile + r * kTile)), d * scale[r * groups], load(to)));
    }
  }
}

// 16 rows from `row` on, and 16 outputs of a panel from `c` on -> y [16][32]. The floats stay in registers while the groups pass, and
// the tiles of a group are multiplied while the sums of the one before are added. `next`: what is asked for meanwhile, or null.
static void tile_half(const Matrix& w, const uint8_t* panel, int c, const Activations& a, int row, const uint8_t* next, float* y) {
  alignas(64) int32_t sums[2][kTile * kTile];
  vf out[kTile] = {};
  const uint8_t *x = a.bytes + (size_t)row * a.row_bytes, *weights = panel + kPanel * 2 + c * 4;
  const float* scale = a.scale + (size_t)row * a.groups;
  auto even = [&](int g) {
    DW_TILE_ZERO(0);
    DW_TILE_LOAD(2, x + (size_t)g * kTileBytes, a.row_bytes);
    DW_TILE_LOAD(3, weights + g * w.block_bytes, kPanel * 4);
    DW_TILE_DOT8(0, 2, 3);
    DW_TILE_STORE(0, sums[0], kTileBytes);
  };
  auto odd = [&](int g) {
    DW_TILE_ZERO(1);
    DW_TILE_LOAD(4, x + (size_t)g * kTileBytes, a.row_bytes);
    DW_TILE_LOAD(5, weights + g * w.block_bytes, kPanel * 4);
    DW_TILE_DOT8(1, 4, 5);
    DW_TILE_STORE(1, sums[1], kTileBytes);
  };
  auto add = [&](int g) {
    const int32_t* from = sums[g % 2];
    const vf d = load_half((const uint16_t*)(panel + g * w.block_bytes) + c);
#pragma GCC unroll 16
    for (int r = 0; r < kTile; r++)
      out[r] = fma(to_float(load_bytes(from + r * kTile)), d * scale[(size_t)r * a.groups + g], out[r]);
  };
  even(0);
  for (int g = 0; g < w.groups; g++) {
    if (next)
      for (size_t i = 0; i < w.block_bytes; i += 64) prefetch(next + g * w.block_bytes + i);
    if (g + 1 < w.groups) g % 2 ? even(g + 1) : odd(g + 1);
    add(g);
  }
#pragma GCC unroll 16
  for (int r = 0; r < kTile; r++) store(y + r * kPanel + c, out[r]);
}

// The same of 4-bit weights, whose bytes are unpacked on the way, with the second term of their groups.
static void tile_half4(const Matrix& w, const uint8_t* panel, int c, const Activations& a, int row, const uint8_t* next, float* y) {
  constexpr int kColumns = kTileBytes / 2;  // of a group
  alignas(64) int32_t sums[2][kTile * kTile];
  alignas(64) uint8_t bytes[2][kTile / 2 * kTileBytes];
  vf out[kTile] = {};
  const uint8_t *x = a.bytes + (size_t)row * a.row_bytes, *weights = panel + kPanel * 4 + c * 4;
  const size_t first = (size_t)row * a.groups;
  auto unpack = [&](int g, uint8_t* to) {
    for (int i = 0; i < 4; i++) {
      const vi both = load_bytes(weights + g * w.block_bytes + i * kPanel * 4);
      *(vi*)(to + i * 2 * kTileBytes) = low_nibbles(both);
      *(vi*)(to + (i * 2 + 1) * kTileBytes) = high_nibbles(both);
    }
  };
  auto even = [&](int g) {
    unpack(g, bytes[0]);
    DW_TILE_ZERO(0);
    DW_TILE_LOAD(2, x + (size_t)g * kColumns, a.row_bytes);
    DW_TILE_LOAD(3, bytes[0], kTileBytes);
    DW_TILE_DOT8_SU(0, 2, 3);
    DW_TILE_STORE(0, sums[0], kTileBytes);
  };
  auto odd = [&](int g) {
    unpack(g, bytes[1]);
    DW_TILE_ZERO(1);
    DW_TILE_LOAD(4, x + (size_t)g * kColumns, a.row_bytes);
    DW_TILE_LOAD(5, bytes[1], kTileBytes);
    DW_TILE_DOT8_SU(1, 4, 5);
    DW_TILE_STORE(1, sums[1], kTileBytes);
  };
  auto add = [&](int g) {
    const int32_t* from = sums[g % 2];
    const uint16_t* block = (const uint16_t*)(panel + g * w.block_bytes);
    const vf d = load_half(block + c), m = load_half(block + kPanel + c);
#pragma GCC unroll 16
    for (int r = 0; r < kTile; r++) {
      const size_t at = first + (size_t)r * a.groups + g;
      out[r] = fma(to_float(load_bytes(from + r * kTile)), d * a.scale[at], out[r]);
      out[r] = fma(m, set1(a.sum[at]), out[r]);
    }
  };
  even(0);
  for (int g = 0; g < w.groups; g++) {
    if (next)
      for (size_t i = 0; i < w.block_bytes; i += 64) prefetch(next + g * w.block_bytes + i);
    if (g + 1 < w.groups) g % 2 ? even(g + 1) : odd(g + 1);
    add(g);
  }
#pragma GCC unroll 16
  for (int r = 0; r < kTile; r++) store(y + r * kPanel + c, out[r]);
}

// Rows [row, end) of one panel, at most kRowBlock and no fewer than fill a tile: half a panel stays in the cache for all of them.
template <int S, class Epilogue>
static void tile_panel_blocks(const Matrix& w, int p, const Activations& a, int row, int end, const Epilogue& epilogue) {
  alignas(64) float y[kRowBlock * kPanel];
  const size_t panel_bytes = w.groups * w.block_bytes;
  const uint8_t* panel = w.data + p * panel_bytes;
  const int rows = end - row;
  configure_tiles(S == kInt4 ? kInt4Tiles : kTile);
  for (int c = 0; c < kPanel; c += kTile)
    for (int t = 0; t < rows; t += kTile) {
      const int first = min_of(t, rows - kTile);
      const uint8_t* next = c + t ? nullptr : panel + panel_bytes;
      if (S == kInt4) tile_half4(w, panel, c, a, row + first, next, y + first * kPanel);
      else tile_half(w, panel, c, a, row + first, next, y + first * kPanel);
    }
  for (int r = row; r < end; r++) epilogue(r, p, y + (r - row) * kPanel);
}

// Rows [row, end) of one panel, at most kRowBlock: a panel is read front to back once, group by group, while the next one is asked for.
template <class Epilogue>
static void tile_panel_rows(const Matrix& w, int p, const Activations& a, int row, int end, const Epilogue& epilogue) {
  alignas(64) float y[kRowBlock * kPanel];
  alignas(64) int32_t sums[2][kTile * kTile];
  const int rows = end - row, n = min_of(rows, kTile), tiles = ceil_div(rows, kTile);
  if (rows >= kTile) return tile_panel_blocks<kInt8>(w, p, a, row, end, epilogue);
  configure_tiles(n);
  for (int i = 0; i < rows * kPanel; i += W) {
    store(y + i, vf{});
    asm volatile("" ::: "memory");  // else it becomes `rep stos`, which is slow to start
  }
  const uint8_t* block = w.data + (size_t)p * w.groups * w.block_bytes;
  const size_t panel_bytes = w.groups * w.block_bytes;
  for (int g = 0; g < w.groups; g++, block += w.block_bytes) {
    for (size_t i = 0; i < w.block_bytes; i += 64) prefetch(block + panel_bytes + i);
    DW_TILE_LOAD(3, block + kPanel * 2, kPanel * 4);
    DW_TILE_LOAD(4, block + kPanel * 2 + kTileBytes, kPanel * 4);
    for (int t = 0; t < tiles; t++) {
      const int first = min_of(t * kTile, rows - n);
      DW_TILE_ZERO(0);
      DW_TILE_ZERO(1);
      DW_TILE_LOAD(2, a.bytes + (size_t)(row + first) * a.row_bytes + (size_t)g * kTileBytes, a.row_bytes);
      DW_TILE_DOT8(0, 2, 3);
      DW_TILE_DOT8(1, 2, 4);
      DW_TILE_STORE(0, sums[0], kTileBytes);
      DW_TILE_STORE(1, sums[1], kTileBytes);
      const int done = t * kTile - first;  // rows that the tile before has computed
      const float* scale = a.scale + (size_t)(row + first + done) * a.groups + g;
      float* to = y + (first + done) * kPanel;
      if (n - done == kTile) add_group(scale, a.groups, kTile, block, sums[0], to);
      else add_group(scale, a.groups, n - done, block, sums[0] + done * kTile, to);
    }
  }
  for (int r = row; r < end; r++) epilogue(r, p, y + (r - row) * kPanel);
}

// Products of tiles alone, from registers: what this machine can reach at best in integers, whatever the bits of a weight, and in
// bf16. Returns the products it did.
static double tile_roof(bool bf16) {
#if defined(DW_EMULATE_AVX512)
  constexpr int kRounds = 1 << 4;
#else
  constexpr int kRounds = 1 << 16;
#endif
  configure_tiles(kTile);
  DW_TILE_ZERO(2);
  DW_TILE_ZERO(3);
  for (int i = 0; i < kRounds; i++) {
    if (bf16) {
      DW_TILE_DOT_BF16(0, 2, 3);
      DW_TILE_DOT_BF16(1, 2, 3);
      DW_TILE_DOT_BF16(4, 2, 3);
      DW_TILE_DOT_BF16(5, 2, 3);
    } else {
      DW_TILE_DOT8(0, 2, 3);
      DW_TILE_DOT8(1, 2, 3);
      DW_TILE_DOT8(4, 2, 3);
      DW_TILE_DOT8(5, 2, 3);
    }
  }
  return (double)kRounds * 4 * kTile * kTile * (bf16 ? kTileDims : kTileBytes);
}

}  // namespace DW_ISA
}  // namespace deepwell
#endif
