// The checksum of the cache and read_checksum: the bytes of the file arrive, and their checksum is the one
// that a plain loop gives, for every length, place and number of threads; a file that ends early is an error.
#include <stdio.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "check.h"
#include "linear_fixture.h"

namespace {

using namespace fixture;

constexpr int64_t kBlock = int64_t{1} << 20, kPage = 4096;

/// Every length at which something changes: nothing, parts of a 64-byte line, pages and blocks, one more or
/// less.
std::vector<int64_t> sizes() {
  std::vector<int64_t> all = {0, 1, 2, 7, 333};
  for (int64_t edge : {int64_t{8}, int64_t{64}, int64_t{128}, kPage, kBlock, 2 * kBlock, 3 * kBlock}) {
    for (int64_t size : {edge - 1, edge, edge + 1}) all.push_back(size);
  }
  return all;
}

std::vector<uint8_t> random_bytes(int64_t count) {
  Random random(11);
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.below(256));
  return bytes;
}

/// A temporary file of these bytes, without a name.
class File {
 public:
  explicit File(const std::vector<uint8_t>& bytes) : file_(std::tmpfile()) {
    if (file_ == nullptr) throw std::system_error(errno, std::generic_category(), "making a temporary file");
    set(0, bytes.data(), bytes.size());
  }
  ~File() { std::fclose(file_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  void set(int64_t at, const uint8_t* bytes, size_t count) {
    CHECK(pwrite(descriptor(), bytes, count, at) == static_cast<ssize_t>(count));
  }
  int descriptor() const { return fileno(file_); }

 private:
  std::FILE* file_;
};

uint64_t mixed(uint64_t x) {
  for (int i = 0; i < 2; ++i) x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
  return x ^ (x >> 32);
}
uint64_t rotated(uint64_t x, int by) { return (x << by) | (x >> (64 - by)); }

/// The checksum as packed files on disk carry it, one byte after the other.
uint64_t plain_checksum(const uint8_t* data, int64_t bytes) {
  constexpr uint64_t kPrime = 0x9e3779b97f4a7c15u;
  uint64_t whole = mixed(static_cast<uint64_t>(bytes) + kPrime);
  for (int64_t begin = 0; begin < bytes; begin += kBlock) {
    const int64_t size = std::min(kBlock, bytes - begin), padded = (size + 63) / 64 * 64;
    uint64_t lane[8], word = 0;
    for (uint64_t i = 0; i < 8; ++i) lane[i] = mixed(kPrime * (i + 1));
    for (int64_t at = 0; at < padded; ++at) {
      word |= static_cast<uint64_t>(at < size ? data[begin + at] : 0) << (at % 8 * 8);
      if (at % 8 != 7) continue;
      uint64_t& one = lane[at / 8 % 8];
      one = rotated((one ^ word) * kPrime, 29);
      word = 0;
    }
    uint64_t block = mixed(static_cast<uint64_t>(size));
    for (uint64_t one : lane) block = mixed(block ^ one) * kPrime;
    whole = mixed(rotated(whole, 17) ^ block) * kPrime;
  }
  return whole;
}

int error_of(int file, int64_t offset, int64_t bytes, ThreadPool& pool) {
  std::vector<uint8_t> to(static_cast<size_t>(bytes));
  try {
    read_checksum(file, offset, to.data(), bytes, pool);
  } catch (const std::system_error& error) {
    return error.code().value();
  }
  return 0;
}

}  // namespace

TEST(reading_gives_the_bytes_of_the_file_and_the_checksum_of_a_plain_loop) {
  const std::vector<uint8_t> bytes = random_bytes(4 * kBlock);
  const File file(bytes);
  ThreadPool one(1), three(3);
  for (const int64_t size : sizes()) {
    const uint64_t expected = plain_checksum(bytes.data(), size);
    CHECK(checksum(bytes.data(), size, three) == expected);
    for (ThreadPool* pool : {&one, &three}) {
      Guarded<uint8_t> to(size);
      CHECK(read_checksum(file.descriptor(), 0, to.data(), size, *pool) == expected);
      CHECK(std::memcmp(to.data(), bytes.data(), static_cast<size_t>(size)) == 0);
      CHECK(to.intact());
    }
  }
}

TEST(reading_may_begin_and_end_anywhere) {
  const std::vector<uint8_t> bytes = random_bytes(3 * kBlock);
  const File file(bytes);
  ThreadPool pool(2);
  for (const int64_t offset :
       {int64_t{0}, int64_t{1}, int64_t{63}, kPage - 1, kPage, kPage + 1, kBlock - 1}) {
    for (const int64_t size : {int64_t{1}, int64_t{777}, kPage, kBlock + 1, 2 * kBlock}) {
      Guarded<uint8_t> to(size);
      const uint64_t found = read_checksum(file.descriptor(), offset, to.data(), size, pool);
      CHECK(found == plain_checksum(bytes.data() + offset, size));
      CHECK(std::memcmp(to.data(), bytes.data() + offset, static_cast<size_t>(size)) == 0);
      CHECK(to.intact());
    }
  }
}

TEST(a_changed_byte_anywhere_in_the_file_changes_the_checksum) {
  const int64_t size = 2 * kBlock + 77;
  const std::vector<uint8_t> bytes = random_bytes(size);
  File file(bytes);
  ThreadPool pool(2);
  std::vector<uint8_t> to(bytes.size());
  const auto read = [&] { return read_checksum(file.descriptor(), 0, to.data(), size, pool); };
  const uint64_t whole = read();
  Random random(12);
  std::vector<int64_t> places = {0, 63, 64, kPage - 1, kPage, kBlock - 1, kBlock, 2 * kBlock, size - 1};
  for (int i = 0; i < 40; ++i) places.push_back(random.below(static_cast<int>(size)));
  for (const int64_t at : places) {
    const uint8_t right = bytes[static_cast<size_t>(at)], wrong = right ^ static_cast<uint8_t>(1 << at % 8);
    file.set(at, &wrong, 1);
    CHECK(read() != whole);
    file.set(at, &right, 1);
  }
  CHECK(read() == whole);
}

TEST(a_file_that_ends_early_or_cannot_be_read_is_an_error) {
  const File file(random_bytes(2 * kBlock));
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    CHECK(error_of(file.descriptor(), 0, 2 * kBlock, pool) == 0);
    CHECK(error_of(file.descriptor(), 0, 2 * kBlock + 1, pool) == EIO);
    CHECK(error_of(file.descriptor(), 1, 2 * kBlock, pool) == EIO);
    CHECK(error_of(file.descriptor(), 9 * kBlock, 1, pool) == EIO);
    CHECK(error_of(file.descriptor(), 9 * kBlock, 0, pool) == 0);
    CHECK(error_of(-1, 0, 1, pool) == EBADF);
    CHECK(error_of(file.descriptor(), 0, kBlock, pool) == 0);  // the pool goes on after an error
  }
}
