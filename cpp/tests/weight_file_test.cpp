// Weights mapped from a file and moved into huge pages: the bytes stay those of the file, at one address, for
// every length and for those who read while they move; files that are too short or closed are errors.
#include "narrows/weight_file.h"

#include <stdio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "check.h"
#include "linear_fixture.h"

namespace {

using namespace fixture;

constexpr int64_t kPage = 4096, kHuge = WeightFile::kHugeBytes, kStep = WeightFile::kStepBytes;

std::vector<uint8_t> random_bytes(int64_t count) {
  Random random(11);
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i / 4096 * 37 + i);
  for (int i = 0; i < 999; ++i) bytes[random.below(static_cast<int>(count))] ^= 0x5a;
  return bytes;
}

/// A temporary file of these bytes, without a name.
class File {
 public:
  explicit File(const std::vector<uint8_t>& bytes) : file_(std::tmpfile()) {
    if (file_ == nullptr) throw std::system_error(errno, std::generic_category(), "making a temporary file");
    CHECK(pwrite(descriptor(), bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  }
  ~File() { std::fclose(file_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int descriptor() const { return fileno(file_); }

 private:
  std::FILE* file_;
};

bool same(const WeightFile& weights, const std::vector<uint8_t>& bytes, int64_t offset) {
  return std::memcmp(weights.data(), bytes.data() + offset, static_cast<size_t>(weights.bytes())) == 0;
}

int error_of(int file, int64_t offset, int64_t bytes) {
  try {
    const WeightFile weights(file, offset, bytes);
  } catch (const std::system_error& error) {
    return error.code().value();
  }
  return 0;
}

/// All of it; nothing where the system says that it never gives huge pages.
bool moved_all(const WeightFile& weights) {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string line;
  const bool never = std::getline(file, line) && line.find("[never]") != std::string::npos;
  return weights.moved_bytes() == (never ? 0 : weights.bytes());
}

}  // namespace

TEST(the_bytes_are_those_of_the_file_before_and_after_they_move) {
  const std::vector<uint8_t> bytes = random_bytes(3 * kStep);
  const File file(bytes);
  for (const int64_t offset : {int64_t{0}, kPage, 5 * kPage, kHuge}) {
    for (const int64_t size : {int64_t{0}, int64_t{1}, kPage, kHuge - 1, kHuge, kHuge + 1, kStep - kPage,
                               kStep, kStep + kHuge + 77, 2 * kStep}) {
      WeightFile weights(file.descriptor(), offset, size);
      const uint8_t* const address = weights.data();
      CHECK(reinterpret_cast<uintptr_t>(address) % kHuge == 0);
      CHECK(weights.bytes() == size);
      CHECK(same(weights, bytes, offset));
      weights.start_moving();
      weights.start_moving();  // once is enough
      weights.finish_moving();
      weights.start_moving();
      weights.finish_moving();
      CHECK(weights.data() == address);
      CHECK(same(weights, bytes, offset));
      CHECK(moved_all(weights));
    }
  }
}

TEST(those_who_read_while_the_bytes_move_see_no_change) {
  const std::vector<uint8_t> bytes = random_bytes(3 * kStep + 5 * kHuge + 123);
  const File file(bytes);
  WeightFile weights(file.descriptor(), 0, static_cast<int64_t>(bytes.size()));
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      do {
        if (!same(weights, bytes, 0)) ++wrong;
      } while (!done);
    });
  }
  weights.start_moving();
  weights.finish_moving();
  done = true;
  for (std::thread& reader : readers) reader.join();
  CHECK(wrong == 0);
  CHECK(moved_all(weights));
}

TEST(a_file_may_be_let_go_while_it_moves_and_its_descriptor_closed_before) {
  const std::vector<uint8_t> bytes = random_bytes(4 * kStep);
  for (int i = 0; i < 8; ++i) {
    auto file = std::make_unique<File>(bytes);
    WeightFile weights(file->descriptor(), 0, static_cast<int64_t>(bytes.size()));
    file.reset();
    CHECK(weights.data()[bytes.size() - 1] == bytes.back());
    weights.start_moving();
  }
}

TEST(a_file_that_is_too_short_or_closed_is_an_error) {
  const File file(random_bytes(2 * kHuge));
  CHECK(error_of(file.descriptor(), 0, 2 * kHuge) == 0);
  CHECK(error_of(file.descriptor(), 0, 2 * kHuge + 1) == EINVAL);
  CHECK(error_of(file.descriptor(), kPage, 2 * kHuge) == EINVAL);
  CHECK(error_of(file.descriptor(), 9 * kHuge, 0) == EINVAL);
  CHECK(error_of(file.descriptor(), -kPage, kPage) == EINVAL);
  CHECK(error_of(file.descriptor(), 0, -1) == EINVAL);
  CHECK(error_of(file.descriptor(), 17, kPage) == EINVAL);  // the system maps from whole pages on
  CHECK(error_of(-1, 0, 1) == EBADF);
}
