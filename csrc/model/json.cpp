#include "model/json.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "model/error.h"

namespace tsgen {
namespace {

class Parser {
 public:
  Parser(const std::string& raw, const std::string& where)
      : at_(raw.data()), begin_(at_), end_(at_ + raw.size()), where_(where) {}

  Json document() {
    Json value = parse(1);
    skip();
    if (at_ != end_) fail("end");
    return value;
  }

 private:
  using Kind = Json::Kind;

  [[noreturn]] void fail(const std::string& wanted) const {
    throw FileError(where_ + ": wanted JSON, got no " + wanted + " at byte " +
                    std::to_string(at_ - begin_));
  }

  void skip() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_;
  }

  bool take(char c) {
    skip();
    if (at_ == end_ || *at_ != c) return false;
    ++at_;
    return true;
  }

  void expect(char c) {
    if (!take(c)) fail(std::string("'") + c + "'");
  }

  bool take_word(std::string_view word) {
    if ((size_t)(end_ - at_) < word.size() || std::string_view(at_, word.size()) != word)
      return false;
    at_ += word.size();
    return true;
  }

  Json parse(int level) {
    Json value;
    if (take('{') || take('[')) {
      if (level > MOST_LEVELS) fail("values nested at most 32 deep");
      at_[-1] == '{' ? object(value, level) : list(value, level);
    } else if (take('"')) {
      value.kind = Kind::text, value.text = text();
    } else if (take_word("true") || take_word("false")) {
      value.kind = Kind::boolean, value.boolean = at_[-2] == 'u';
    } else if (!take_word("null")) {
      number(value);
    }
    return value;
  }

  void list(Json& value, int level) {
    value.kind = Kind::list;
    if (take(']')) return;
    do value.items.push_back(parse(level + 1));
    while (take(','));
    expect(']');
  }

  void object(Json& value, int level) {
    value.kind = Kind::object;
    if (take('}')) return;
    do {
      expect('"');
      value.names.push_back(text());
      expect(':');
      value.items.push_back(parse(level + 1));
    } while (take(','));
    expect('}');
    std::vector<std::string_view> sorted(value.names.begin(), value.names.end());
    std::sort(sorted.begin(), sorted.end());
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    // of two values one would win, and another reader may let the other one
    if (twice != sorted.end()) fail("key but " + quoted(std::string(*twice)) + " twice");
  }

  void digits() {
    if (at_ == end_ || *at_ < '0' || *at_ > '9') fail("number");
    while (at_ != end_ && *at_ >= '0' && *at_ <= '9') ++at_;
  }

  void number(Json& value) {
    const char* const first = at_;
    if (at_ != end_ && *at_ == '-') ++at_;
    const char* const head = at_;
    digits();
    if (*head == '0' && at_ - head > 1) fail("number without zeros in front");
    value.kind = Kind::whole;
    if (at_ != end_ && *at_ == '.') ++at_, digits(), value.kind = Kind::number;
    if (at_ != end_ && (*at_ == 'e' || *at_ == 'E')) {
      ++at_, value.kind = Kind::number;
      if (at_ != end_ && (*at_ == '+' || *at_ == '-')) ++at_;
      digits();
    }
    // of these alone the decimal point is not the locale's
    if (std::from_chars(first, at_, value.number).ec != std::errc()) fail("number of float64");
    if (value.kind == Kind::whole && std::from_chars(first, at_, value.whole).ec != std::errc())
      value.kind = Kind::number;  // whole, and larger than anything that we count
  }

  uint32_t hex4() {
    uint32_t code = 0;
    if (end_ - at_ < 4) fail("four hex digits");
    const auto [to, error] = std::from_chars(at_, at_ + 4, code, 16);
    if (error != std::errc() || to != at_ + 4) fail("four hex digits");
    at_ += 4;
    return code;
  }

  void escaped(std::string& out) {
    static constexpr std::string_view names = "\"\\/bfnrt", meant = "\"\\/\b\f\n\r\t";
    if (at_ == end_) fail("end of a text");
    const char c = *at_++;
    if (const size_t i = names.find(c); i != names.npos) {
      out += meant[i];
      return;
    }
    if (c != 'u') fail("escape that is known");
    uint32_t code = hex4();
    if (code >= 0xD800 && code < 0xDC00) {
      const uint32_t low = take_word("\\u") ? hex4() : 0;
      if (low < 0xDC00 || low >= 0xE000) fail("second half of a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code < 0xE000) {
      fail("first half of a surrogate pair");
    }
    append_utf8(out, code);
  }

  static void append_utf8(std::string& out, uint32_t code) {
    const auto tail = [&](int shift) { out += (char)(0x80 | (code >> shift & 0x3F)); };
    if (code < 0x80)
      out += (char)code;
    else if (code < 0x800)
      out += (char)(0xC0 | code >> 6), tail(0);
    else if (code < 0x10000)
      out += (char)(0xE0 | code >> 12), tail(6), tail(0);
    else
      out += (char)(0xF0 | code >> 18), tail(12), tail(6), tail(0);
  }

  // Bytes of one character that is no ASCII.
  void multibyte(std::string& out) {
    const auto byte = [&](int i) { return (uint32_t)(unsigned char)at_[i]; };
    const int n = byte(0) >= 0xF0 ? 4 : byte(0) >= 0xE0 ? 3 : 2;
    if (byte(0) < 0xC2 || byte(0) > 0xF4 || end_ - at_ < n) fail("UTF-8");
    uint32_t code = byte(0) & (0x7F >> n);
    for (int i = 1; i < n; ++i) {
      if (byte(i) >> 6 != 2) fail("UTF-8");
      code = code << 6 | (byte(i) & 0x3F);
    }
    const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (code < least[n] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) fail("UTF-8");
    out.append(at_, n), at_ += n;
  }

  std::string text() {  // behind its first quote
    std::string out;
    for (;;) {
      if (at_ == end_ || (unsigned char)*at_ < 0x20) fail("end of a text");
      if ((unsigned char)*at_ >= 0x80) {
        multibyte(out);
      } else if (const char c = *at_++; c == '"') {
        return out;
      } else if (c == '\\') {
        escaped(out);
      } else {
        out += c;
      }
    }
  }

  const char *at_, *begin_, *end_;
  const std::string& where_;
};

}  // namespace

const Json* Json::find(const std::string& name) const {
  for (size_t i = 0; i < names.size(); ++i)
    if (names[i] == name) return &items[i];
  return nullptr;
}

std::string quoted(const std::string& text) {
  constexpr size_t MOST = 60;
  std::string out = "'";
  for (const unsigned char c : text.substr(0, MOST)) out += c < 0x20 || c >= 0x7F ? '?' : (char)c;
  return out + (text.size() > MOST ? "...'" : "'");
}

std::string Json::shown() const {
  switch (kind) {
    case Kind::null:
      return "null";
    case Kind::boolean:
      return boolean ? "true" : "false";
    case Kind::whole:
      return std::to_string(whole);
    case Kind::number:
      return std::to_string(number);
    case Kind::text:
      return quoted(text);
    case Kind::list:
      return "a list of " + std::to_string(items.size());
    default:
      return "an object of " + std::to_string(items.size());
  }
}

Json parse_json(const std::string& raw, const std::string& where) {
  return Parser(raw, where).document();
}

}  // namespace tsgen
