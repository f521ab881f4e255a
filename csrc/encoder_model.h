// Plain structs of the encoder (BERT), shared by its bindings and kernels; the rules of common.h apply.
#pragma once
#include "common.h"

namespace deepwell {

enum Pooling : int { kMeanPooling = 0, kFirstPooling = 1 };

// Biases and norms are padded with zeros to whole panels.
struct EncoderAttentionLayer {  // x = norm(x + o(attend(qkv(x))))
  Matrix qkv;                   // rows: q heads, k heads, v heads
  Matrix o;
  const float *qkv_bias, *o_bias, *norm, *shift;
  int heads, head_dim;
  float eps;
};

struct EncoderMlpLayer {  // x = norm(x + down(gelu(up(x))))
  Matrix up, down;
  const float *up_bias, *down_bias, *norm, *shift;
  float eps;
};

struct EncoderBlock {
  const EncoderAttentionLayer* attention;
  const EncoderMlpLayer* mlp;
};

struct EncoderModel {
  Matrix embed;
  const float* positions;  // [max_positions, hidden], the token type added
  const float *norm, *shift;
  const EncoderBlock* blocks;
  int num_blocks, hidden, max_positions;
  float eps;
  Pooling pooling;
};

struct EncoderBatch {
  const int32_t *tokens, *seq_starts;  // [rows], [seqs + 1]
  int rows, seqs;
};

struct EncoderOutputs {  // each may be null
  float* pooled;         // [seqs, hidden], of unit length
  float* hidden;         // [rows, hidden]
};

}  // namespace deepwell
