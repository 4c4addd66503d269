// The checksum of the cache: the one that a plain loop gives, for every length, place and number of threads;
// and the read bandwidth.
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

}  // namespace

TEST(the_checksum_is_that_of_a_plain_loop) {
  const std::vector<uint8_t> bytes = random_bytes(4 * kBlock);
  ThreadPool one(1), three(3);
  for (const int64_t size : sizes()) {
    const uint64_t expected = plain_checksum(bytes.data(), size);
    CHECK(checksum(bytes.data(), size, one) == expected);
    CHECK(checksum(bytes.data(), size, three) == expected);
  }
}

TEST(the_bytes_may_begin_anywhere) {
  const std::vector<uint8_t> bytes = random_bytes(3 * kBlock);
  ThreadPool pool(2);
  for (const int64_t offset :
       {int64_t{0}, int64_t{1}, int64_t{63}, kPage - 1, kPage, kPage + 1, kBlock - 1}) {
    for (const int64_t size : {int64_t{1}, int64_t{777}, kPage, kBlock + 1, 2 * kBlock}) {
      CHECK(checksum(bytes.data() + offset, size, pool) == plain_checksum(bytes.data() + offset, size));
    }
  }
}

TEST(a_changed_byte_anywhere_changes_the_checksum) {
  const int64_t size = 2 * kBlock + 77;
  std::vector<uint8_t> bytes = random_bytes(size);
  ThreadPool pool(2);
  const uint64_t whole = checksum(bytes.data(), size, pool);
  Random random(12);
  std::vector<int64_t> places = {0, 63, 64, kPage - 1, kPage, kBlock - 1, kBlock, 2 * kBlock, size - 1};
  for (int i = 0; i < 40; ++i) places.push_back(random.below(static_cast<int>(size)));
  for (const int64_t at : places) {
    bytes[static_cast<size_t>(at)] ^= static_cast<uint8_t>(1 << at % 8);
    CHECK(checksum(bytes.data(), size, pool) != whole);
    bytes[static_cast<size_t>(at)] ^= static_cast<uint8_t>(1 << at % 8);
  }
  CHECK(checksum(bytes.data(), size, pool) == whole);
}

TEST(the_checksum_sees_every_bit_every_length_and_the_order_of_blocks) {
  ThreadPool pool(1);
  std::vector<uint8_t> data(333);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * 7);
  const auto size = static_cast<int64_t>(data.size());
  const uint64_t whole = checksum(data.data(), size, pool);
  for (size_t bit = 0; bit < data.size() * 8; ++bit) {
    data[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    CHECK(checksum(data.data(), size, pool) != whole);
    data[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
  }
  const std::vector<uint8_t> zeros(200);
  for (int64_t n = 1; n < 200; ++n)
    CHECK(checksum(zeros.data(), n, pool) != checksum(zeros.data(), n - 1, pool));
  std::vector<uint8_t> blocks(2 << 20), swapped(2 << 20);
  std::memset(blocks.data(), 1, 1 << 20);
  std::memset(swapped.data() + (1 << 20), 1, 1 << 20);
  CHECK(checksum(blocks.data(), 2 << 20, pool) != checksum(swapped.data(), 2 << 20, pool));
}

TEST(the_read_bandwidth_of_memory_is_positive_and_below_a_terabyte_per_second) {
  ThreadPool pool(2);
  for (const ReadPlan& plan : {ReadPlan{.repeats = 2}, {.passes = 3}, {.repeats = 2, .segments = 7}}) {
    const double gb_per_s = read_bandwidth(64 << 20, plan, pool);
    CHECK(gb_per_s > 0.05 && gb_per_s < 1000.0);
  }
}

TEST(any_number_of_bytes_can_be_read_in_any_number_of_segments) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (const int64_t bytes : {int64_t{1}, kPage, 5 * kPage + 1, kBlock - 1}) {
      for (const int64_t segments : {int64_t{0}, int64_t{1}, int64_t{3}, int64_t{1000000}}) {
        CHECK(read_bandwidth(bytes, {.repeats = 2, .segments = segments}, pool) > 0.0);
      }
    }
  }
}
