// The Python class of a paged cache.
#pragma once
#include <cstddef>
#include <string>

#include "binding_types.h"
#include "common.h"
#include "memory.h"

namespace deepwell {

inline KvType kv_type(const std::string& dtype, const std::string& where) {
  if (dtype == "fp32") return kKvFp32;
  if (dtype == "bf16") return kKvBf16;
  if (dtype == "int8") return kKvInt8;
  fail(where + ": dtype must be fp32, bf16 or int8, not '" + dtype + "'");
}

struct PyKVCache {
  PyKVCache() = default;
  PyKVCache(int layers, int blocks, int kv_heads, int head_dim, const std::string& dtype) {
    require(layers > 0 && blocks > 0 && kv_heads > 0 && head_dim > 0 && head_dim <= kMaxHeadDim, "kv_cache: bad shape");
    KVCache& c = cache;
    c.layers = layers, c.blocks = blocks, c.kv_heads = kv_heads, c.head_dim = head_dim;
    c.type = kv_type(dtype, "kv_cache");
    size_t element_bytes = c.type == kKvFp32 ? 4 : c.type == kKvBf16 ? 2 : 1;
    size_t scales = c.type == kKvInt8 ? 2 * kBlockTokens * sizeof(float) : 0;
    c.head_bytes = size_t{2} * head_dim * kBlockTokens * element_bytes + scales;
    c.block_bytes = c.head_bytes * kv_heads;
    c.layer_bytes = c.block_bytes * blocks;
    memory.reset(c.layer_bytes * layers);
    c.data = memory.data();
  }
  KVCache cache{};
  HugeBuffer memory;
};

}  // namespace deepwell
