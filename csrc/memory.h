// Memory of steps, caches and adapters.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

#include "common.h"
#include "integers.h"

namespace deepwell {

// Anonymous memory on huge pages: decode streams through it, and 4 kB pages cost a third of the bandwidth.
class HugeBuffer {
 public:
  HugeBuffer() = default;
  explicit HugeBuffer(size_t bytes) { reset(bytes); }
  HugeBuffer(const HugeBuffer&) = delete;
  HugeBuffer& operator=(const HugeBuffer&) = delete;
  ~HugeBuffer() { release(); }

  void reset(size_t bytes) {
    release();
    constexpr size_t page = size_t{2} << 20;
    mapped_ = bytes + page;
    void* p = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
      mapped_ = 0;
      throw std::bad_alloc();
    }
    base_ = p;
    data_ = reinterpret_cast<uint8_t*>(round_up(reinterpret_cast<uintptr_t>(p), page));
    bytes_ = bytes;
    if (bytes >= page) madvise(data_, bytes, MADV_HUGEPAGE);
  }

  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void release() {
    if (mapped_) munmap(base_, mapped_);
    mapped_ = bytes_ = 0;
    data_ = nullptr;
  }

  void* base_ = nullptr;
  uint8_t* data_ = nullptr;
  size_t mapped_ = 0, bytes_ = 0;
};

// The scratch of a model. It grows to what the largest step needs and a quarter more, so that a batch which grows row by row does
// not map memory at each; it never shrinks.
class Scratch {
 public:
  Workspace reserve(size_t bytes) {
    if (bytes > memory_.bytes()) memory_.reset(bytes + bytes / 4);
    return {memory_.data(), memory_.bytes()};
  }

  size_t bytes() const { return memory_.bytes(); }

 private:
  HugeBuffer memory_;
};

}  // namespace deepwell
