// Hands out scratch. One memory serves a step: its owner (`Scratch` in memory.h) reserves what a layout has asked for, and
// nothing else in kernels/ allocates.
//
// A layout is written once and run twice alike. Over no memory it says how much it needs (`used`), over the owner's where each
// array lies. Arrays begin at cache lines, so threads that write neighbours do not share one.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "integers.h"
#include "kernels/isa.h"

namespace deepwell {
namespace DW_ISA {

class Arena {
 public:
  [[gnu::always_inline]] explicit Arena(uint8_t* base) : base_(base) {}

  template <class T>
  [[gnu::always_inline]] T* take(size_t count) {
    T* p = (T*)(base_ + used_);
    used_ = round_up(used_ + count * sizeof(T), 64);
    return p;
  }

  [[gnu::always_inline]] size_t used() const { return used_; }

 private:
  uint8_t* base_;
  size_t used_ = 0;
};

}  // namespace DW_ISA
}  // namespace deepwell
