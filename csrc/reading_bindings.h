// The guard's readings of a text: folded, joined, without leetspeak, and the words that may hold a code. The same in numpy or
// Python stands beside each caller in deepwell.safety.readings, and is the reference.
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

// NOTE: as deepwell.safety.readings.leet, word by word. 2,000 characters take some 10 us.
struct LeetPass {
  static constexpr size_t kLetters = 26;

  const uint32_t* codes;
  size_t count;
  const float* pairs;  // [26][26], by the letter in front
  uint32_t* out;       // [count]
  bool paired[4] = {};

  // Returns whether a word mixes letters and signs; only then is there something to read.
  bool mixes() const {
    for (size_t i = 1; i + 1 < count; i++) {
      if (is_letter(codes[i]) ? is_sign(codes[i - 1]) && is_sign(codes[i + 1])
                              : is_sign(codes[i]) && is_letter(codes[i - 1]) && is_letter(codes[i + 1]))
        return true;
    }
    return false;
  }

  void run() {
    count_brackets();
    std::vector<uint8_t> change(count);
    for (size_t begin = 0, end; begin < count; begin = end + 1) {
      bool spoken = false;
      for (end = begin; end < count && in_word(end); end++) spoken |= is_letter(codes[end]) || codes[end] > '9';
      bool alone = end - begin < 2;
      for (size_t i = begin; i < end; i++)
        change[i] = spoken && !alone && reads_as_letter(i) && !(codes[i] == '!' && i + 1 == end);
    }
    for (size_t i = 0; i < count; i++) out[i] = change[i] ? reading(codes[i]) : codes[i];
    fit(change, '1', 'i', 'l');
    fit(change, '!', 'i', 'l');
    fit(change, '|', 'i', 'l');
    fit(change, '6', 'g', 'b');
  }

 private:
  static constexpr const char* kOpening = "([{<";
  static constexpr const char* kClosing = ")]}>";
  static bool is_letter(uint32_t c) { return c >= 'a' && c <= 'z'; }
  static uint32_t reading(uint32_t c) {
    if (c >= '0' && c <= '9') return uint32_t("oizeasgtbg"[c - '0']);
    switch (c) {
      case '@': case '^': return 'a';
      case '$': return 's';
      case '!': return 'i';
      case '|': return 'l';
      case '+': return 't';
      case '(': case '[': case '{': case '<': return 'c';
      default: return 0;
    }
  }
  static bool is_sign(uint32_t c) { return reading(c) != 0; }
  bool reads_as_letter(size_t i) const {
    for (size_t k = 0; k < 4; k++)
      if (paired[k] && codes[i] == uint32_t(kOpening[k])) return false;
    return is_sign(codes[i]);
  }
  bool in_word(size_t i) const { return is_letter(codes[i]) || reads_as_letter(i); }

  // An opening bracket is none that stands for a letter where as many close.
  void count_brackets() {
    for (size_t k = 0; k < 4; k++) {
      size_t opening = 0, closing = 0;
      for (size_t i = 0; i < count; i++) opening += codes[i] == uint32_t(kOpening[k]), closing += codes[i] == uint32_t(kClosing[k]);
      paired[k] = opening > 0 && opening == closing;
    }
  }

  float fitness(size_t i, uint32_t letter) const {
    float total = 0;
    if (i > 0 && is_letter(out[i - 1])) total += pairs[(out[i - 1] - 'a') * kLetters + letter - 'a'];
    if (i + 1 < count && is_letter(out[i + 1])) total += pairs[(letter - 'a') * kLetters + out[i + 1] - 'a'];
    return total;
  }

  // Reads a doubtful sign as the letter that stands beside its neighbours more often; all of a sign by what stood there before.
  void fit(const std::vector<uint8_t>& change, uint32_t sign, uint32_t first, uint32_t second) {
    std::vector<std::pair<size_t, uint32_t>> fitted;
    for (size_t i = 0; i < count; i++)
      if (change[i] && codes[i] == sign) fitted.emplace_back(i, fitness(i, second) > fitness(i, first) ? second : first);
    for (auto [at, letter] : fitted) out[at] = letter;
  }
};

// The characters read, or None where no word mixes letters and signs
inline nb::object leet_codes(Codes codes, Floats pairs) {
  require(pairs.shape(0) == LeetPass::kLetters && pairs.shape(1) == LeetPass::kLetters, "leet_codes: pairs must be [26, 26]");
  LeetPass pass = {codes.data(), codes.size(), pairs.data(), nullptr};
  if (!pass.mixes()) return nb::none();
  Owned<uint32_t> out(pass.count);
  pass.out = out.data.get();
  {
    WithoutGil released(pass.count);
    pass.run();
  }
  return out.array(pass.count);
}

// (folded characters, places that they come from, their classes, places among them of white space made single or None)
// The tables are those of deepwell.safety.readings.tables; a text with backspaces is not for this.
inline nb::tuple fold_codes(Codes codes, Codes folded, Array<const uint32_t, nb::ndim<2>> expansions, Bytes classes) {
  constexpr uint32_t kExpanded = 1u << 31;
  size_t n = codes.size(), known = folded.size(), width = expansions.shape(1);
  require(known > 0 && classes.size() == known, "fold_codes: a class for each folded character is needed");
  require(n < size_t(1) << 28 && width <= 6, "fold_codes: too many characters");
  std::vector<uint32_t> out;
  std::vector<int32_t> from;
  out.reserve(n + 16), from.reserve(n + 16);
  auto push = [&](uint32_t code, size_t i) { out.push_back(code), from.push_back(int32_t(i)); };
  for (size_t i = 0; i < n; i++) {
    uint32_t code = codes.data()[i];
    uint32_t mapped = code < known ? folded.data()[code] : code >> 12 == 0xe0 ? 0 : code;
    if (mapped < kExpanded) {
      if (mapped) push(mapped, i);
      continue;
    }
    require(mapped - kExpanded < expansions.shape(0), "fold_codes: a row of expansions is missing");
    const uint32_t* row = expansions.data() + size_t(mapped - kExpanded) * width;
    for (size_t k = 0; k < width && row[k]; k++) push(row[k], i);
  }
  size_t size = out.size(), repeated = 0;
  Owned<uint32_t> characters(size);
  Owned<int32_t> places(size);
  Owned<uint8_t> kinds(size);
  for (size_t i = 0; i < size; i++) {
    characters.data[i] = out[i], places.data[i] = from[i];
    kinds.data[i] = classes.data()[min_of(size_t(out[i]), known - 1)];
    repeated += i > 0 && kinds.data[i] == kSpace && kinds.data[i - 1] == kSpace;
  }
  nb::object single = nb::none();
  if (repeated) {
    Owned<int32_t> kept(size - repeated);
    for (size_t i = 0, to = 0; i < size; i++)
      if (i == 0 || kinds.data[i] != kSpace || kinds.data[i - 1] != kSpace) kept.data[to++] = int32_t(i);
    single = kept.array(size - repeated);
  }
  return nb::make_tuple(characters.array(size), places.array(size), kinds.array(size), single);
}

}  // namespace deepwell
