// Plain structs shared by the bindings and every kernel table. No inline functions and no std types: a definition emitted by
// an AVX512 unit could otherwise be the copy the linker keeps for a machine without AVX512.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace deepwell {

constexpr int kPanel = 32;         // output rows of one packed panel
constexpr int kBlockTokens = 16;   // tokens of one cache block
constexpr int kPieceTokens = 256;  // softmax pieces, merged in order
constexpr int kMaxHeadDim = 256;
constexpr int kMaxGroup = 96;      // query heads that share a KV head
constexpr int kMaxExperts = 1024;  // routed experts of a layer
constexpr int kMaxStreams = 8;     // residual streams
constexpr int kMaxMixes = (2 + kMaxStreams) * kMaxStreams;

enum Scheme : int { kFp32 = 0, kInt8 = 1, kInt4 = 2, kBf16 = 3, kFp16 = 4 };

// W: [rows, cols], packed as [panels][groups][block]; see docs/explanation/weights.md.
struct Matrix {
  const uint8_t* data;
  int rows, cols;
  Scheme scheme;
  int panels;          // ceil(rows / 32)
  int groups;          // ceil(cols / group)
  int group;           // columns of a block: 64 (int8), 32 (int4), 2 (bf16), 1 (fp16, fp32)
  size_t block_bytes;  // of one (panel, group)
};

struct AttentionLayer {
  const float* norm;  // [hidden]
  Matrix qkv;         // rows: q heads, k heads, v heads
  const float* bias;  // [qkv.rows] or null
  Matrix o;
  int heads, kv_heads, head_dim;
  float eps;
  const float *q_norm, *k_norm;  // [head_dim] or null: RMSNorm of each query and key head before rotation
};

struct MlpLayer {
  const float* norm;  // [hidden]
  Matrix gate_up;     // rows alternate 16 of gate, 16 of up
  Matrix down;
  float eps;
};

// The lightning indexer of DeepSeek-V3.2: which tokens a query attends to.
struct IndexerLayer {
  Matrix q_b;            // rows: heads x head_dim, of the normed q_a
  Matrix k;              // rows: head_dim
  const float *k_norm, *k_shift;  // [head_dim], LayerNorm
  const float* weights;  // [heads, hidden]
  int heads, head_dim, top_k;
};

// Multi-head latent attention; a head of k_up, k_absorb and v_up begins at a panel.
struct LatentLayer {
  const float* norm;    // [hidden]
  Matrix a;             // rows: q_a (or, where q_rank is 0, the queries), latent, k_pe
  const float* q_norm;  // [q_rank]
  Matrix q_b;           // rows: heads x (nope + rope); unused where q_rank is 0
  const float* kv_norm;  // [rank]
  Matrix k_up;          // expands a latent to keys
  Matrix k_absorb;      // takes a query to the latents' space
  Matrix v_up;          // expands a latent to values
  Matrix o;
  int heads, nope, rope, value_dim, rank, q_rank;
  float scale, eps;
  const IndexerLayer* indexer;  // or null
};

// Several residual streams (kernels/hyper.h): what a layer reads of them, and how its output and they make the next ones.
struct HyperLayer {
  const float* weights;  // [(2 + streams) streams][streams][hidden]
  const float* base;     // [(2 + streams) streams]
  const float* scale;    // [3]
  int streams, rounds;
  float eps, norm_eps;
};

// What the final norm reads of them.
struct HyperHead {
  const float* weights;  // [streams][streams][hidden]
  const float *base, *scale;  // [streams], [1]
  int streams;
  float eps, norm_eps;
};

// Entries of several tokens each, and where they lie in a block of the cache.
struct CompressorPage {
  int rate, width;
  bool overlap;
  size_t entries_at, parts_at;  // in a block, in a slot
};

// What the cache holds of one layer of DeepSeek-V4 (kernels/compressed_layout.h): entries in blocks, single tokens in slots.
struct CompressedPage {
  int head_dim, count;
  CompressorPage made[2];  // of attention, of the indexer
  size_t at, block_bytes;  // entries: of the layer in the cache, of a block
  size_t recent_at, recent_bytes;  // single tokens: of the layer, of a slot
};

struct Compressor {
  CompressorPage page;  // without places
  const float* bias;    // [rate][width, twice that with overlap]
  const float* norm;    // [width]
};

// Attention over a window of last tokens and compressed entries.
struct CompressedLayer {
  const float* norm;    // [hidden]
  Matrix a;             // rows: q_a, the vector, values and gates of the compressor, then of the indexer's
  const float* q_norm;  // [q_rank]
  Matrix q_b;           // rows: heads x head_dim
  const float* kv_norm;  // [head_dim]
  Matrix o_a;           // rows: o_groups x pad32(rank), cols: those of a group of heads
  Matrix o_b;           // cols: o_groups x rank
  const float* sinks;   // [heads]
  const float *cos, *sin;  // [max_positions, rope / 2]
  HyperLayer hyper;
  int heads, head_dim, rope, q_rank, o_groups, window;
  float eps;
  bool has_entries, has_index;
  Compressor entries, index;
  Matrix index_q;       // rows: index_heads x index width
  const float* index_weights;  // [index_heads, hidden]
  int index_heads, top_k;
};

enum Scoring : int { kSoftmax = 0, kSigmoid = 1, kSqrtSoftplus = 2 };

struct MoeLayer {
  const float* norm;        // [hidden]
  Matrix router;            // [experts, hidden], fp32
  const float* correction;  // [experts] or null: added to the scores that choose, not to those that weigh
  Matrix gate_up, down;     // stacked, expert after expert, each beginning at a panel
  bool shared;              // whether there is a shared expert
  Matrix shared_gate_up, shared_down;
  int experts, top_k;
  Scoring scoring;
  int groups, topk_group;   // of `groups` groups of experts the best `topk_group` may be chosen from
  bool norm_topk_prob;
  float routed_scaling_factor, eps;
  uint64_t* counts;         // [experts]: rows that each has seen; then how often the weights of any were read
  float limit;              // of gate (above) and up (both ways); 0: none
  const int32_t* token_experts;  // [vocab, top_k] or null: a token's experts, which scores then only weigh
  const HyperLayer* hyper;  // or null: one residual stream
};

// What stands in the place of the embedding where a model reads the states of another: x = proj [norm(embedding); norm(state)].
// Of several residual streams each is x = proj norm(embedding) + state_proj norm(state).
struct JoinLayer {
  const float *embed_norm, *state_norm;  // [hidden]
  Matrix proj;                           // [hidden, 2 hidden], or [hidden, hidden]
  Matrix state_proj;                     // [hidden, hidden], of models with several residual streams
};

// What adapters may add to a layer's matrices lies in `Adapter::matrices` at these places; a layer has those of its own matrices
// alone. The model's owner chooses the places when it composes the layers (lora_bindings.h), kernels ask by name, and nothing
// else knows an order.
//
// Products of one input share a matrix, and so a place: q, k and v (qkv), gate and up (gate_up), q_a or the queries and the latent
// (a). Its A is that of all their parts stacked, so x is read once; its B says by runs of 16 outputs which ranks own them.
struct LoraPlaces {
  int qkv, o;                             // attention; o of latent attention too
  int a, q_b;                             // latent attention; q_b where q_rank > 0
  int gate_up, down;                      // MLP
  int experts_gate_up, experts_down;      // mixture: those of expert 0, the others' follow each other
  int shared_gate_up, shared_down;        // mixture with a shared expert
};

struct Layer {  // exactly one is set
  const AttentionLayer* attention = nullptr;
  const MlpLayer* mlp = nullptr;
  const LatentLayer* latent = nullptr;
  const MoeLayer* moe = nullptr;
  const CompressedLayer* compressed = nullptr;
  LoraPlaces lora{};
};

enum LoraDtype : int { kLoraFp32 = 0, kLoraBf16 = 1, kLoraInt8 = 2 };
constexpr int kLoraRows = 4;         // rows of one adapter whose A x is taken together
constexpr int kLoraGroup = 64;       // columns of A that share a scale (int8)
constexpr int kMaxLoraRanks = 2048;  // of all parts of a matrix (int8)
constexpr float kSmallestLoraPeak = 1e-30f;

// The ranks that own 16 consecutive outputs of a matrix.
struct LoraRun {
  int32_t first_rank, ranks;  // of the stacked A; both multiples of 4 (int8) or 2
  int32_t offset;             // where its B begins, in bytes
};

// What one adapter adds to one matrix: A of all its parts stacked, B by runs of 16 outputs. bf16 and fp32 have pairs of ranks: those of
// bf16 share a 32-bit word (even rank below), float32 ones follow each other. int8: see kernels/lora_int8.h.
struct LoraMatrix {
  const uint8_t* a;     // [ranks / 2][padded_cols] pairs
  const uint8_t* b;     // per run [ranks / 2][16] pairs
  const LoraRun* runs;  // [panels * 2]
  int ranks;            // 0: this matrix is left alone
  int cols, padded_cols;
  LoraDtype dtype;
};

struct Adapter {
  const LoraMatrix* matrices;  // at the places that `LoraPlaces` names
  int most_ranks;
};

enum KvType : int { kKvFp32 = 0, kKvBf16 = 1, kKvInt8 = 2 };

// [layers][blocks][kv_heads]{ keys [head_dim][16], values [16][head_dim] }; int8: then float scales of the 16 keys, the 16 values.
// Where latent_rank > 0 a block holds latents instead (kernels/mla.h), and kv_heads and head_dim are 0.
struct KVCache {
  uint8_t* data;
  int layers, blocks, kv_heads, head_dim;
  KvType type;
  size_t head_bytes, block_bytes, layer_bytes;
  int latent_rank, latent_rope, index_dim;
  const CompressedPage* pages;  // [layers] or null: DeepSeek-V4's blocks, bf16 or fp32
  const int32_t* slots;         // [blocks]: where single tokens of a block lie, -1 where they are gone
  int num_slots;
};

// Tokens of one sequence that have left its window, as factors of their keys and values (kernels/factors.h).
struct Memory {
  uint8_t* const* segments;  // [count], oldest first, each [layers][kv_heads] heads
  int count;
  int tokens;                 // of a segment: as many as leave at once
  int first;                  // place in the window of the first token that leaves
  int key_rank, value_rank;   // multiples of 16; of latents key_rank is the sum of both parts (kernels/mla_factors.h)
  int floor;                  // no token is seen at a place below
  size_t head_bytes, layer_bytes;
};

// Blocks that become the next segment of a memory.
struct Remember {
  Memory memory;
  const int32_t* blocks;  // [memory.tokens / 16]
  uint8_t* segment;
  const float *cos, *sin;  // [max_positions, rotary_dim / 2]
};

struct Batch {
  const int32_t *tokens, *positions, *seq_starts, *block_tables, *output_rows;
  int rows, seqs, max_blocks, outputs;
  const Adapter* const* adapters;  // [adapters_count], those of this batch
  const int32_t* adapter_of;       // [rows]: which of them, -1 for none; null: no row has one
  int adapters_count;
  const int32_t* prompt_lengths;  // [seqs] or null: latent attention expands rows at positions below, absorbs the others
  const float* states;            // [rows, streams, hidden], read by a JoinLayer; null elsewhere
  const Memory* const* memories;  // [seqs], null where a sequence has none; null: none has
};

struct Outputs {  // each may be null
  float* logits;           // [outputs, vocab]
  int32_t* argmax;         // [outputs]
  float* hidden;           // [outputs, hidden]
  const int32_t* targets;  // [outputs]
  float* target_logprobs;  // [outputs]
  float* states;           // [rows, hidden]: of every row, after the final norm; or its streams, [rows, streams, hidden]
  float* output_states;    // [outputs, hidden] or [outputs, streams, hidden]: the same of these rows
};

struct Model {
  Matrix embed, head;
  const Layer* layers;
  int num_layers;
  const float *norm, *cos, *sin;  // cos, sin: [max_positions, rotary_dim / 2]
  int hidden, vocab, max_positions;
  float eps;
  const JoinLayer* join;  // or null: rows begin as embeddings
  const HyperHead* streams;  // or null: one residual stream
};

// Scratch of one step, sized by `KernelTable::workspace_bytes` and 64-byte aligned; the kernels' arena (kernels/arena.h) hands it out.
struct Workspace {
  uint8_t* data;
  size_t bytes;
};

struct Team;  // pool.h
struct EncoderModel;  // encoder_model.h
struct EncoderBatch;
struct EncoderOutputs;

struct Roofline {
  const uint8_t* memory;  // read by the memory loop
  size_t memory_bytes;
};

// Blocks that get the contents of others, with keys turned by one angle for each pair of dimensions.
struct BlockShift {
  const int32_t *sources, *targets;  // [count]
  int count;
  const float *cos, *sin;  // [rotary_dim / 2]
};

// One per instruction set. Every function is called by all threads of the team with their own `tid`.
struct KernelTable {
  const char* name;
  size_t (*workspace_bytes)(const Model&, const Batch&, const KVCache&, const Outputs&, int threads);
  void (*forward)(const Model&, const Batch&, const KVCache&, const Outputs&, const Workspace&, Team*, int tid);
  size_t (*matmul_workspace_bytes)(const Matrix&, int m);
  void (*matmul)(const Matrix&, const float* x, int m, float* y, const Workspace&, Team*, int tid);
  // Runs one slice of a register- or memory-bound loop and returns the operations (MACs or bytes) it did.
  double (*roofline)(int kind, const Roofline&, int tid, int threads);
  size_t (*encoder_workspace_bytes)(const EncoderModel&, const EncoderBatch&, int threads);
  size_t (*latent_block_bytes)(const KVCache&);  // 16 tokens of a layer
  void (*encode)(const EncoderModel&, const EncoderBatch&, const EncoderOutputs&, const Workspace&, Team*, int tid);
  void (*shift_blocks)(const KVCache&, const BlockShift&, Team*, int tid);
  size_t (*factor_bytes)(const Memory&, const KVCache&);  // of a layer and KV head in a segment
  size_t (*remember_bytes)(const KVCache&, const Memory&, int threads);
  void (*remember_blocks)(const KVCache&, const Remember&, const Workspace&, Team*, int tid);
};

enum RooflineKind : int { kRoofMemory = 0, kRoofFp32 = 1, kRoofInt8 = 2, kRoofInt4 = 3, kRoofBf16 = 4, kRoofClock = 5 };

}  // namespace deepwell
