// What the guard does with the characters of every text: the n-grams of its classifier, by the values of their buckets, and what
// a reading leaves out between spaced characters. The same in numpy is beside each caller, and is the reference.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "binding_types.h"
#include "integers.h"

namespace deepwell {

using Codes = Array<const uint32_t, nb::ndim<1>>;

constexpr int kGramBits = 18;
constexpr size_t kGramColumns = 4;
constexpr size_t kLongestWord = 48;

// Gives up the GIL for a long text alone: getting it back from a busy thread takes up to 5 ms, a short text some microseconds.
struct WithoutGil {
  explicit WithoutGil(size_t characters) {
    if (characters >= size_t(1) << 14) released.emplace();
  }
  std::optional<nb::gil_scoped_release> released;
};

// Memory of a new array, which Python frees.
template <class T>
struct Owned {
  explicit Owned(size_t n) : data(new T[n]), count(n) {}
  nb::object array(size_t rows) { return wrapped({rows}); }
  nb::object array(size_t rows, size_t columns) { return wrapped({rows, columns}); }
  std::unique_ptr<T[]> data;
  size_t count;

 private:
  nb::object wrapped(std::initializer_list<size_t> shape) {
    T* memory = data.release();
    nb::capsule owner(memory, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return nb::cast(nb::ndarray<nb::numpy, T>(memory, shape.size(), shape.begin(), owner));
  }
};

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

// In the order of deepwell.safety.readings.tables.
enum CharacterClass : uint8_t { kSymbol, kLetter, kHan, kSpace, kSentence, kOther };

// NOTE: the rules are those of deepwell.safety.readings.joined, one loop for each. 2,000 characters take some 10 us.
struct JoinPass {
  static constexpr size_t kMinSpaced = 4, kMaxGap = 4, kMaxHanGap = 6;

  const uint32_t* codes;
  const uint8_t* classes;
  size_t count;
  std::vector<uint8_t> drop, blank;
  bool changed = false;

  void run() {
    if (count < kMinSpaced) return;
    drop.resize(count), blank.resize(count);
    size_t alone = 0, han = 0;
    for (size_t i = 0; i < count; i++) {
      alone += is_alone_letter(i);
      han += is_han(i);
    }
    if (alone >= (han ? 1 : kMinSpaced - 1)) join_spaced();
    if (han > 1) join_han();
  }

 private:
  bool is_han(size_t i) const { return classes[i] == kHan; }
  bool is_space(size_t i) const { return classes[i] == kSpace; }
  bool is_letter(size_t i) const { return classes[i] == kLetter || classes[i] == kOther; }
  bool is_word(size_t i) const { return is_han(i) || is_letter(i); }
  bool is_alone_letter(size_t i) const {
    return is_letter(i) && !(i > 0 && is_letter(i - 1)) && !(i + 1 < count && is_letter(i + 1));
  }

  // Letters that stand alone and Han characters, in rows of four and more with gaps of one to three characters without letters.
  void join_spaced() {
    std::vector<size_t> row;
    bool letters_between = false;
    for (size_t i = 0; i < count; i++) {
      if (!is_han(i) && !is_alone_letter(i)) {
        letters_between |= is_letter(i);
        continue;
      }
      if (!row.empty()) {
        size_t gap = i - row.back();
        if (gap < 2 || gap > kMaxGap || letters_between) join_row(row), row.clear();
      }
      row.push_back(i);
      letters_between = false;
    }
    join_row(row);
  }

  // Signs part letters, and then spaces part words. Where every gap has spaces, the most frequent size parts letters.
  void join_row(const std::vector<size_t>& row) {
    if (row.size() < kMinSpaced) return;
    size_t gaps = row.size() - 1, of_signs = 0, of_size[kMaxGap] = {};
    std::vector<uint8_t> has_space(gaps);
    for (size_t k = 0; k < gaps; k++) {
      for (size_t i = row[k] + 1; i < row[k + 1]; i++) has_space[k] |= is_space(i);
      of_signs += !has_space[k];
      of_size[row[k + 1] - row[k] - 1]++;
    }
    size_t common = 1;
    for (size_t size = 2; size < kMaxGap; size++)
      if (of_size[size] > of_size[common]) common = size;
    if ((of_signs ? of_signs : of_size[common]) < kMinSpaced - 1) return;
    changed = true;
    for (size_t k = 0; k < gaps; k++) {
      bool inside = of_signs ? !has_space[k] : row[k + 1] - row[k] - 1 == common;
      for (size_t i = row[k] + 1; i < row[k + 1]; i++) drop[i] = 1;
      if (!inside) drop[row[k] + 1] = 0, blank[row[k] + 1] = 1;
    }
  }

  bool is_bracketed_numeral(size_t i) const {
    if (i == 0 || i + 1 >= count || codes[i - 1] != '(' || codes[i + 1] != ')') return false;
    for (uint32_t numeral : {0x4e00, 0x4e8c, 0x4e09, 0x56db, 0x4e94, 0x516d, 0x4e03, 0x516b, 0x4e5d, 0x5341})
      if (codes[i] == numeral) return true;
    return false;
  }

  // What stands between two Han characters, or between letters of a lump without spaces that holds one.
  void join_han() {
    std::vector<uint8_t> in_han_lump(count);
    for (size_t begin = 0, end; begin < count; begin = end + 1) {
      bool han = false;
      for (end = begin; end < count && !is_space(end); end++) han |= is_han(end);
      if (han) std::fill(in_han_lump.begin() + ptrdiff_t(begin), in_han_lump.begin() + ptrdiff_t(end), uint8_t{1});
    }
    size_t left = count;
    for (size_t right = 0; right < count; right++) {
      if (!is_word(right)) continue;
      if (left < right && right - left > 1 && right - left <= kMaxHanGap + 1 && parts_nothing(left, right, in_han_lump)) {
        changed = true;
        for (size_t i = left + 1; i < right; i++) drop[i] = 1;
      }
      left = right;
    }
  }

  bool parts_nothing(size_t left, size_t right, const std::vector<uint8_t>& in_han_lump) const {
    bool space = false, sentence = false;
    for (size_t i = left + 1; i < right; i++) {
      space |= is_space(i);
      sentence |= classes[i] == kSentence || codes[i] == '\n';
    }
    if (!(is_han(left) && is_han(right)) && (space || !in_han_lump[left])) return false;
    return !sentence || stands_alone(left) || stands_alone(right);
  }
  bool stands_alone(size_t i) const {
    return !(i > 0 && is_word(i - 1)) && !(i + 1 < count && is_word(i + 1)) && !is_bracketed_numeral(i);
  }
};

// (places kept, their characters), or None where nothing is joined
inline nb::object joined_places(Codes codes, Array<const uint8_t, nb::ndim<1>> classes) {
  require(codes.size() == classes.size(), "joined_places: a class for each character is needed");
  require(codes.size() < size_t(1) << 31, "joined_places: too many characters");
  JoinPass pass = {codes.data(), classes.data(), codes.size(), {}, {}};
  {
    WithoutGil released(codes.size());
    pass.run();
  }
  if (!pass.changed) return nb::none();
  size_t size = 0;
  for (uint8_t dropped : pass.drop) size += !dropped;
  Owned<int32_t> places(size);
  Owned<uint32_t> characters(size);
  for (size_t i = 0, to = 0; i < pass.count; i++) {
    if (pass.drop[i]) continue;
    places.data[to] = int32_t(i);
    characters.data[to++] = pass.blank[i] ? ' ' : codes.data()[i];
  }
  return nb::make_tuple(places.array(size), characters.array(size));
}

// NOTE: a gate in front of the readers of deepwell.safety.readings.encodings: it lets through every word that one of them reads,
// and few others. 2,000 characters take some 5 us.
struct WordGate {
  static constexpr size_t kMinWord = 8, kMinHex = 12, kMinAscii85 = 20;

  const uint32_t* codes;
  size_t count;

  static bool is_blank(uint32_t c) {
    if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13) || (c >= 28 && c <= 31);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
  }
  static bool is_upper(uint32_t c) { return c >= 'A' && c <= 'Z'; }
  static bool is_lower(uint32_t c) { return c >= 'a' && c <= 'z'; }
  static bool is_digit(uint32_t c) { return c >= '0' && c <= '9'; }
  static bool is_hex(uint32_t c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
  static bool is_base64(uint32_t c) {
    return is_lower(c) || is_upper(c) || is_digit(c) || c == '+' || c == '/' || c == '_' || c == '-';
  }
  static bool is_odd(uint32_t c) {
    if (c <= ' ' || c >= 127 || is_lower(c) || is_upper(c) || is_digit(c)) return false;
    return c != '+' && c != ',' && c != '-' && c != '.' && c != '/' && c != ':' && c != '=' && c != '_';
  }

  // Returns whether base64, base32 or base16 may be in a word.
  bool has_run(size_t at, size_t end) const {
    while (at < end) {
      if (!is_base64(codes[at])) {
        at++;
        continue;
      }
      size_t begin = at;
      bool upper = false, lower = false, digits = true, hex = true;
      for (; at < end && is_base64(codes[at]); at++) {
        uint32_t c = codes[at];
        upper |= is_upper(c), lower |= is_lower(c), digits &= is_digit(c), hex &= is_hex(c) || c == 'x' || c == 'X';
      }
      bool padded = at < end && codes[at] == '=';
      if (at - begin < (padded ? kMinWord - 2 : kMinWord)) continue;
      if (upper || (!lower && (padded || !digits)) || (hex && at - begin >= kMinHex)) return true;
    }
    return false;
  }

  bool passes(size_t begin, size_t end) const {
    if (end - begin < kMinWord) return false;
    size_t odd = 0, plain = is_upper(codes[begin]);
    for (size_t i = begin; i < end; i++) odd += is_odd(codes[i]), plain += is_lower(codes[i]);
    if (plain == end - begin) return false;
    return (end - begin >= kMinAscii85 && odd * 16 >= end - begin) || has_run(begin, end);
  }
};

// Places of the first character, and the one behind the last, of each word that may hold a code.
inline std::vector<std::pair<size_t, size_t>> code_words(Codes codes) {
  WordGate gate = {codes.data(), codes.size()};
  std::vector<std::pair<size_t, size_t>> found;
  WithoutGil released(codes.size());
  for (size_t at = 0; at < gate.count;) {
    if (WordGate::is_blank(gate.codes[at])) {
      at++;
      continue;
    }
    size_t begin = at;
    while (at < gate.count && !WordGate::is_blank(gate.codes[at])) at++;
    if (gate.passes(begin, at)) found.emplace_back(begin, at);
  }
  return found;
}

inline void bind_text(nb::module_& m) {
  using namespace nb::literals;
  m.def("code_words", &code_words, "codes"_a);
  m.def("joined_places", &joined_places, "codes"_a, "classes"_a);
  m.def("gram_sums", &gram_sums, "codes"_a, "table"_a);
}

}  // namespace deepwell
