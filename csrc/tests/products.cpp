// Products of every scheme: integers against plain loops, bit for bit, and floats in the order in which they
// are specified.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "check.h"
#include "plain.h"

namespace deepwell::tests {
namespace {

constexpr Scheme kEvery[] = {kFp32, kInt8, kInt4, kBf16, kFp16};
constexpr int kSizes = 60;  // of each scheme

// As in tests/engine/test_native.py: of the largest value, or of a sixteenth of the summands.
double tolerance(Scheme scheme, bool fused) {
  return !fused ? 4e-6 : scheme == kInt8 || scheme == kInt4 ? 2e-7 : 2e-6;
}

struct Size {
  int tokens, rows, cols;
};

std::string named(Scheme scheme, const Size& s, const char* what) {
  return std::string(kSchemes[scheme]) + " " + std::to_string(s.tokens) + " x [" + std::to_string(s.rows) +
         ", " + std::to_string(s.cols) + "]: " + what;
}

// Few rows and many, odd sizes, single ones among them.
Size any_size(Random& random, int number) {
  constexpr int kTokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 31, 33, 64, 65, 73, 129};
  return {kTokens[number % 18], random.integer(1, number % 3 ? 40 : 100), random.integer(1, 300)};
}

// All scales are 1 and all sums below 2^24, so a float holds every intermediate result exactly.
void test_integers(const KernelTable& table, const KernelTable& generic, Scheme scheme, uint64_t seed) {
  Random random(seed);
  Size s = any_size(random, static_cast<int>(seed));
  Weights w = empty_weights(scheme, s.rows, s.cols);
  for (int& q : w.q) q = scheme == kInt8 ? random.integer(-127, 127) : random.integer(0, 15);
  for (float& d : w.d) d = 1;
  for (float& m : w.m) m = scheme == kInt4 ? static_cast<float>(random.integer(-8, 8)) : 0;
  std::vector<float> x(static_cast<size_t>(s.tokens) * s.cols);
  for (float& v : x) v = static_cast<float>(random.integer(-127, 127));
  for (int t = 0; t < s.tokens; t++)
    for (int c = 0; c < s.cols; c += w.group())
      x[static_cast<size_t>(t) * s.cols + c] = t % 2 ? 127.0f : -127.0f;
  Packed packed(w);
  std::vector<float> y = matmul(table, packed.matrix, x.data(), s.tokens);
  check(y == matmul(generic, packed.matrix, x.data(), s.tokens), table,
        named(scheme, s, "integers differ from the generic table"));
  bool same = true;
  for (int t = 0; t < s.tokens; t++)
    for (int r = 0; r < s.rows; r++) {
      int64_t sum = 0;
      for (int c = 0; c < s.cols; c++)
        sum += static_cast<int64_t>(x[static_cast<size_t>(t) * s.cols + c]) *
               (w.code(r, c) + static_cast<int64_t>(w.m[w.at(r, c / w.group())]));
      same = same && static_cast<float>(sum) == y[static_cast<size_t>(t) * s.rows + r];
    }
  check(same, table, named(scheme, s, "integers differ from a plain loop"));
}

void test_floats(const KernelTable& table, const KernelTable& generic, Scheme scheme, uint64_t seed) {
  Random random(1000 + seed);
  Size s = any_size(random, static_cast<int>(seed));
  Weights w = quantize(random.normals(static_cast<size_t>(s.rows) * s.cols), scheme, s.rows, s.cols);
  std::vector<float> x = random.normals(static_cast<size_t>(s.tokens) * s.cols);
  for (size_t i = 0; i < x.size(); i += 7)
    x[i] = std::nearbyint(x[i] * 4) * 0.5f;  // ties of rounding among them
  Packed packed(w);
  bool fused = &table != &generic, same = true;
  double largest = 1, most_summands = 0, error = 0, from_generic = 0;
  std::vector<float> y = matmul(table, packed.matrix, x.data(), s.tokens),
                     other = matmul(generic, packed.matrix, x.data(), s.tokens);
  for (int t = 0; t < s.tokens; t++)
    for (int r = 0; r < s.rows; r++) {
      const float* row = &x[static_cast<size_t>(t) * s.cols];
      float computed = y[static_cast<size_t>(t) * s.rows + r];
      same = same && computed == product(w, r, row, fused);
      double exact = 0, summands = 0;
      for (int c = 0; c < s.cols; c++) {
        double term = static_cast<double>(row[c]) * w.value(r, c);
        exact += term, summands += std::fabs(term);
      }
      largest = std::max(largest, std::fabs(exact));
      most_summands = std::max(most_summands, summands);
      if (!w.integers()) error = std::max(error, std::fabs(computed - exact));
      from_generic =
          std::max<double>(from_generic, std::fabs(computed - other[static_cast<size_t>(t) * s.rows + r]));
    }
  check(same, table, named(scheme, s, "bits differ from the specified order"));
  largest = std::max(largest, most_summands / 16);
  check(error <= tolerance(scheme, fused) * largest, table,
        named(scheme, s, "too far from the exact product"));
  check(from_generic <= tolerance(scheme, false) * largest, table,
        named(scheme, s, "too far from the generic table"));
}

// A row has the same bits alone and among any number of others.
void test_companions(const KernelTable& table, Scheme scheme) {
  constexpr int kRows = 97, kCols = 200, kMost = 129;
  Random random(7);
  Packed packed(quantize(random.normals(static_cast<size_t>(kRows) * kCols), scheme, kRows, kCols));
  std::vector<float> x = random.normals(static_cast<size_t>(kMost) * kCols);
  std::vector<float> together = matmul(table, packed.matrix, x.data(), kMost);
  for (int first = 0; first < kMost; first++) {
    std::vector<float> alone = matmul(table, packed.matrix, &x[static_cast<size_t>(first) * kCols], 1);
    check(std::equal(alone.begin(), alone.end(), together.begin() + static_cast<long>(first) * kRows), table,
          named(scheme, {1, kRows, kCols}, "a row alone has other bits than in a batch"));
  }
  for (int count : {2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 64, 65})
    for (int first : {0, 1, kMost - count}) {
      std::vector<float> some = matmul(table, packed.matrix, &x[static_cast<size_t>(first) * kCols], count);
      check(std::equal(some.begin(), some.end(), together.begin() + static_cast<long>(first) * kRows), table,
            named(scheme, {count, kRows, kCols}, "rows have other bits in another batch"));
    }
}

// Zeros, subnormal and huge values, and both ends of the integer range.
void test_extremes(const KernelTable& table, bool fused, Scheme scheme) {
  constexpr int kRows = 40, kCols = 128, kTokens = 5;
  Random random(9);
  Weights w = quantize(random.normals(static_cast<size_t>(kRows) * kCols), scheme, kRows, kCols);
  Packed packed(w);
  std::vector<float> x(static_cast<size_t>(kTokens) * kCols);
  x[kCols + 3] = 1e-30f;
  for (int c = 0; c < kCols; c++) {
    x[2 * kCols + c] = 1e30f;
    x[3 * kCols + c] = c < 64 ? -127.0f : 0.0f;
    x[4 * kCols + c] = c % 2 ? 127.0f : -127.0f;
  }
  std::vector<float> y = matmul(table, packed.matrix, x.data(), kTokens);
  for (int t = 0; t < kTokens; t++)
    for (int r = 0; r < kRows; r++)
      check(y[t * kRows + r] == product(w, r, &x[t * kCols], fused), table,
            named(scheme, {kTokens, kRows, kCols}, "extremes"));
}

// Every float16 there is, widened by a product with one.
void test_halves(const KernelTable& table) {
  Weights w = empty_weights(kFp16, 1 << 16, 1);
  Packed packed(w);
  for (int h = 0; h < 1 << 16; h++) {
    auto bits = static_cast<uint16_t>(h);
    std::memcpy(packed.bytes.data() + 2 * h, &bits, 2);
  }
  const float one = 1;
  std::vector<float> y = matmul(table, packed.matrix, &one, 1);
  bool same = true;
  for (int h = 0; h < 1 << 16; h++) {
    float expected = of_half(static_cast<uint16_t>(h));
    same = same && (std::isnan(expected) ? std::isnan(y[h]) : y[h] == expected);
  }
  check(same, table, "float16 widened");
}

}  // namespace

void test_products(const KernelTable& table, const KernelTable& generic) {
  bool fused = &table != &generic;
  test_halves(table);
  for (Scheme scheme : kEvery) {
    for (uint64_t seed = 1; seed <= kSizes; seed++) {
      if (scheme == kInt8 || scheme == kInt4) test_integers(table, generic, scheme, seed);
      test_floats(table, generic, scheme, seed);
    }
    test_companions(table, scheme);
    if (scheme == kInt8 || scheme == kInt4) test_extremes(table, fused, scheme);
  }
  for (int kind : {kRoofFp32, kRoofInt8, kRoofInt4, kRoofBf16})
    check(&table == &generic || table.roofline(kind, {nullptr, 0}, 0, 1) > 0, table,
          "no roof of kind " + std::to_string(kind));
}

}  // namespace deepwell::tests
