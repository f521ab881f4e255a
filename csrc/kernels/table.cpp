// Compiled once per instruction set with DW_ISA as the name of its namespace.
#include "common.h"
#include "kernels/encoder.h"
#include "kernels/layers.h"
#include "kernels/mla.h"
#include "kernels/remember.h"
#include "kernels/roofline.h"
#include "kernels/shift.h"

#define DW_TEXT2(x) #x
#define DW_TEXT(x) DW_TEXT2(x)

namespace deepwell {
namespace DW_ISA {
extern const KernelTable kTable;
const KernelTable kTable = {DW_TEXT(DW_ISA), workspace_bytes, forward, matmul_workspace_bytes, matmul, roofline,
                            encoder_workspace_bytes, latent_block_bytes, encode, shift_blocks, factor_bytes, remember_bytes,
                            remember_blocks};
}  // namespace DW_ISA
}  // namespace deepwell
