// Compiled once per instruction set with DW_ISA as the name of its namespace.
#include "common.h"
#include "kernels/encoder.h"
#include "kernels/layers.h"
#include "kernels/mla.h"
#include "kernels/remember.h"
#include "kernels/roofline.h"
#include "kernels/shift.h"
#include "kernels/tiles.h"

#define DW_TEXT2(x) #x
#define DW_TEXT(x) DW_TEXT2(x)

namespace deepwell {
namespace DW_ISA {
extern const KernelTable kTable;
#if defined(DW_TILES)
extern const KernelTable kTileTable;

// The same functions, with tiles where they have them.
static void tile_forward(const Model& m, const Batch& b, const KVCache& cache, const Outputs& out, const Workspace& w, Team* team,
                         int tid) {
  TileScope tiles;
  forward(m, b, cache, out, w, team, tid);
}
static void tile_matmul(const Matrix& w, const float* x, int m, float* y, const Workspace& space, Team* team, int tid) {
  TileScope tiles;
  matmul(w, x, m, y, space, team, tid);
}
static void tile_encode(const EncoderModel& m, const EncoderBatch& b, const EncoderOutputs& out, const Workspace& w, Team* team,
                        int tid) {
  TileScope tiles;
  encode(m, b, out, w, team, tid);
}
static double tile_roofline(int kind, const Roofline& r, int tid, int threads) {
  if (kind == kRoofMemory || kind == kRoofFp32 || kind == kRoofClock) return roofline(kind, r, tid, threads);
  TileScope tiles;
  return tile_roof(kind == kRoofBf16);
}
#if defined(DW_EMULATE_AVX512)
const KernelTable kTable = {DW_TEXT(DW_ISA), workspace_bytes, tile_forward, matmul_workspace_bytes, tile_matmul, tile_roofline,
                            encoder_workspace_bytes, latent_block_bytes, tile_encode, shift_blocks, factor_bytes, remember_bytes,
                            remember_blocks};
#else
const KernelTable kTileTable = {"avx512_amx", workspace_bytes, tile_forward, matmul_workspace_bytes, tile_matmul, tile_roofline,
                                encoder_workspace_bytes, latent_block_bytes, tile_encode, shift_blocks, factor_bytes, remember_bytes,
                                remember_blocks};
#endif
#endif
#if !defined(DW_EMULATE_AVX512)
const KernelTable kTable = {DW_TEXT(DW_ISA), workspace_bytes, forward, matmul_workspace_bytes, matmul, roofline,
                            encoder_workspace_bytes, latent_block_bytes, encode, shift_blocks, factor_bytes, remember_bytes,
                            remember_blocks};
#endif
}  // namespace DW_ISA
}  // namespace deepwell
