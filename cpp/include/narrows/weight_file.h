// Packed weights on disk, in memory at once: mapped from the page cache, then moved into huge pages behind a
// running model.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>

namespace narrows {

/// Bytes [offset, offset + bytes) of a file at one address, which is aligned to a huge page.
///
/// A file's pages are small, and at their ends the hardware prefetcher stops, which costs 2 to 8 % of the
/// decode speed; huge pages cost a start several times as long, most of it the wait for memory. So a model
/// starts on the file's pages, and a thread of low priority copies them and puts the copies in their
/// place (mremap), while others read: the bytes are the same before and after. Readers see no change of
/// address, and at no time are more than kStepBytes there twice.
class WeightFile {
 public:
  static constexpr int64_t kHugeBytes = int64_t{2} << 20;
  static constexpr int64_t kStepBytes = 8 * kHugeBytes;

  /// `file` is an open file, of which this keeps a descriptor of its own; `offset` is a multiple of the page
  /// size. Throws std::system_error where it cannot be mapped or is shorter than offset + bytes.
  WeightFile(int file, int64_t offset, int64_t bytes);
  /// Ends the moving and unmaps: nobody may read any more.
  ~WeightFile();
  WeightFile(const WeightFile&) = delete;
  WeightFile& operator=(const WeightFile&) = delete;

  const uint8_t* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

  /// Begins to move the bytes into huge pages, once; returns at once. What cannot be moved (no memory, no
  /// huge pages) stays mapped from the file.
  void start_moving();
  /// Waits until the moving, if any, has ended.
  void finish_moving();
  int64_t moved_bytes() const { return moved_.load(std::memory_order_relaxed); }

 private:
  void move();
  bool move_step(int64_t begin, int64_t size);

  int file_ = -1;
  int64_t offset_;
  int64_t bytes_;
  uint8_t* reserved_ = nullptr;  // the address range, a huge page longer than the bytes
  uint8_t* data_ = nullptr;
  std::atomic<int64_t> moved_{0};
  std::atomic<bool> stop_{false};
  std::thread mover_;
};

}  // namespace narrows
