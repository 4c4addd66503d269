// A test harness in one header: TEST(name) { CHECK(...); } and a main that runs every test of the file.
// A failed check is printed and counted, and the test goes on; the exit code is 1 where anything failed.
// Arguments: substrings of the names of the tests to run.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <vector>

namespace check {

struct Test {
  const char* name;
  void (*body)();
};
inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}
inline int& failures() {
  static int count = 0;
  return count;
}
struct Register {
  Register(const char* name, void (*body)()) { tests().push_back({name, body}); }
};
inline void failed(const char* file, int line, const char* what) {
  if (++failures() <= 50) std::printf("%s:%d: CHECK failed: %s\n", file, line, what);
}
inline void near(const char* file, int line, const char* what, double a, double b, double tolerance) {
  if (std::fabs(a - b) <= tolerance) return;  // false for NaN, so NaN fails
  failed(file, line, what);
  std::printf("  %.9g against %.9g, tolerance %.3g\n", a, b, tolerance);
}
inline bool wanted(const char* name, int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strstr(name, argv[i]) != nullptr) return true;
  }
  return argc < 2;
}

}  // namespace check

#define CHECK(...) ((__VA_ARGS__) ? (void)0 : check::failed(__FILE__, __LINE__, #__VA_ARGS__))
#define CHECK_NEAR(a, b, tolerance) \
  check::near(__FILE__, __LINE__, #a " ~ " #b, double(a), double(b), double(tolerance))
#define TEST(name)                                           \
  static void name();                                        \
  static const check::Register register_##name(#name, name); \
  static void name()

int main(int argc, char** argv) {
  int run = 0;
  for (const check::Test& test : check::tests()) {
    if (!check::wanted(test.name, argc, argv)) continue;
    const int before = check::failures();
    try {
      test.body();
    } catch (const std::exception& error) {
      check::failed(test.name, 0, error.what());
    }
    std::printf("%s %s\n", check::failures() == before ? "ok  " : "FAIL", test.name);
    ++run;
  }
  std::printf("%d tests, %d failed checks\n", run, check::failures());
  return check::failures() > 0 || run == 0 ? 1 : 0;
}
