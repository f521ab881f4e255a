// What the guard counts in every text: n-grams, by the values of their buckets, and beginnings of terms. The same in numpy stands
// beside each caller in deepwell.safety, and is the reference.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "binding_types.h"
#include "reading_bindings.h"

namespace deepwell {

constexpr int kGramBits = 18;
constexpr size_t kGramColumns = 4;
constexpr size_t kLongestWord = 48;

// NOTE: the arithmetic is that of deepwell.safety.classifier.features, bit for bit: unsigned, so that it wraps, and without an
// order that could matter. 2,000 characters take some 20 us, of which most wait for the rows of the table, 1 MiB.
struct GramPass {
  const uint32_t* codes;
  size_t count;
  const int8_t* table;  // [2^18][4]
  int64_t* kept;        // [count]
  int64_t* sums;        // [count + 1][4]
  int64_t* totals;      // [count + 1]
  size_t size = 0, words = 0;

  void run() {
    std::vector<uint32_t> read(count);
    std::vector<int16_t> each(count * kGramColumns);
    std::vector<uint8_t> grams(count);
    squeeze(read.data());
    add_characters(read.data(), each.data(), grams.data());
    add_words(read.data(), each.data(), grams.data());
    for (size_t c = 0; c < kGramColumns; c++) sums[c] = 0;
    totals[0] = 0;
    for (size_t i = 0; i < size; i++) {
      for (size_t c = 0; c < kGramColumns; c++)
        sums[(i + 1) * kGramColumns + c] = sums[i * kGramColumns + c] + each[i * kGramColumns + c];
      totals[i + 1] = totals[i] + grams[i];
    }
  }

 private:
  static uint32_t plain(uint32_t code) {
    if (code >= 128) return code;
    if (code <= ' ' || code == 127) return ' ';
    if (code >= 'A' && code <= 'Z') return code + 32;
    return code >= '0' && code <= '9' ? '0' : code;
  }
  static bool is_letter(uint32_t code) { return code >= 128 || (code >= 'a' && code <= 'z') || code == '0'; }
  static bool is_han(uint32_t code) { return code >= 0x3400 && code <= 0x9fff; }
  static uint32_t bucket(uint64_t hashed) {
    return uint32_t(((hashed ^ (hashed >> 29)) * 0x9e3779b97f4a7c15u) >> (64 - kGramBits));
  }

  void add(int16_t* each, uint8_t* grams, size_t at, uint64_t hashed) const {
    const int8_t* row = table + size_t(bucket(hashed)) * kGramColumns;
    for (size_t c = 0; c < kGramColumns; c++) each[at * kGramColumns + c] = int16_t(each[at * kGramColumns + c] + row[c]);
    grams[at]++;
  }

  void squeeze(uint32_t* read) {
    uint32_t last = 0;
    for (size_t i = 0; i < count; i++) {
      uint32_t code = plain(codes[i]);
      if (i > 0 && code == last && !is_letter(code)) continue;
      last = code;
      kept[size] = int64_t(i);
      read[size++] = code;
    }
  }

  void add_characters(const uint32_t* read, int16_t* each, uint8_t* grams) const {
    constexpr uint64_t steps[] = {0xa0761d6478bd642fu, 0xe7037ed1a0b428dbu, 0x8ebc6af09c88c6e3u, 0x589965cc75374cc3u,
                                  0x1d8e4e27c47d124fu};
    for (size_t i = 0; i + 2 < size; i++) {
      uint64_t hashed = read[i] * steps[0] + read[i + 1] * steps[1] + read[i + 2] * steps[2];
      add(each, grams, i, hashed);
      if (i + 3 >= size) continue;
      add(each, grams, i, hashed += read[i + 3] * steps[3]);
      if (i + 4 < size) add(each, grams, i, hashed + read[i + 4] * steps[4]);
    }
  }

  void add_words(const uint32_t* read, int16_t* each, uint8_t* grams) {
    constexpr uint64_t step = 0xd6e8feb86659fd93u, second = 0xc2b2ae3d27d4eb4fu, third = 0x165667b19e3779f9u;
    // Places and hashes of the last two words, and the hash of these as a pair.
    size_t before = 0, before_that = 0;
    uint64_t one = 0, two = 0;
    for (size_t i = 0; i < size;) {
      if (!is_letter(read[i])) {
        i++;
        continue;
      }
      size_t start = i, place = 0;
      uint64_t hashed = 0, factor = step;
      do {
        hashed += read[i] * factor;
        if (++place < kLongestWord) factor *= step;
        i++;
      } while (i < size && is_letter(read[i]) && !is_han(read[i]) && !is_han(read[i - 1]));
      hashed ^= hashed >> 31;
      add(each, grams, start, hashed + 7);
      uint64_t pair = one + hashed * second;
      if (words >= 1) add(each, grams, before, pair + 7);
      if (words >= 2) add(each, grams, before_that, two + hashed * third + 7);
      before_that = before, before = start, one = hashed, two = pair;
      words++;
    }
  }
};

// (places of the characters read, running sums of the table's rows, running numbers of n-grams, number of words)
inline nb::tuple gram_sums(Codes codes, Array<const int8_t, nb::ndim<2>> table) {
  require(table.shape(0) == size_t(1) << kGramBits && table.shape(1) == kGramColumns, "gram_sums: table must be [2^18, 4]");
  size_t n = codes.size();
  require(n < size_t(1) << 32, "gram_sums: too many characters");
  Owned<int64_t> kept(n), sums((n + 1) * kGramColumns), totals(n + 1);
  GramPass pass = {codes.data(), n, table.data(), kept.data.get(), sums.data.get(), totals.data.get()};
  {
    WithoutGil released(n);
    pass.run();
  }
  return nb::make_tuple(kept.array(pass.size), sums.array(pass.size + 1, kGramColumns), totals.array(pass.size + 1), pass.words);
}

// Places at which a term may begin: the hash of the two or three characters there has its bit, and no word goes on.
// The hashes are those of deepwell.safety.terms.index.
inline std::vector<size_t> term_starts(Codes codes, Bytes pairs, Bytes triples) {
  constexpr int kPairBits = 18, kTripleBits = 21;
  require(pairs.size() == size_t(1) << (kPairBits - 3) && triples.size() == size_t(1) << (kTripleBits - 3),
          "term_starts: 2^18 and 2^21 bits are needed");
  auto has = [](const Bytes& bits, uint32_t at) { return bits.data()[at >> 3] >> (at & 7) & 1; };
  auto is_word = [](uint32_t c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  const uint32_t* c = codes.data();
  std::vector<size_t> starts;
  WithoutGil released(codes.size());
  for (size_t i = 0; i + 1 < codes.size(); i++) {
    if (i > 0 && is_word(c[i]) && is_word(c[i - 1])) continue;
    uint32_t hashed = c[i] * 0x9e3779b1u + c[i + 1] * 0x85ebca6bu;
    if (has(pairs, hashed >> (32 - kPairBits)) ||
        (i + 2 < codes.size() && has(triples, (hashed + c[i + 2] * 0xc2b2ae35u) >> (32 - kTripleBits))))
      starts.push_back(i);
  }
  return starts;
}

inline void bind_text(nb::module_& m) {
  using namespace nb::literals;
  m.def("code_words", &code_words, "codes"_a);
  m.def("fold_codes", &fold_codes, "codes"_a, "folded"_a, "expansions"_a, "classes"_a);
  m.def("leet_codes", &leet_codes, "codes"_a, "pairs"_a);
  m.def("term_starts", &term_starts, "codes"_a, "pairs"_a, "triples"_a);
  m.def("joined_places", &joined_places, "codes"_a, "classes"_a);
  m.def("gram_sums", &gram_sums, "codes"_a, "table"_a);
}

}  // namespace deepwell
