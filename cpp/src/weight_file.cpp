// Maps packed weights and moves them into huge pages behind their readers.
#include "narrows/weight_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <string>
#include <system_error>

namespace narrows {
namespace {

constexpr int kNice = 10;  // a tenth of what a thread of a step gets where they want the same core

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

uint8_t* up_to_huge(uint8_t* p) {
  return p + (-reinterpret_cast<uintptr_t>(p) & (WeightFile::kHugeBytes - 1));
}

/// Whether the system gives huge pages to those who ask; a system that does not say is asked.
bool has_huge_pages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string line;
  return !std::getline(file, line) || line.find("[never]") == std::string::npos;
}

/// Anonymous memory that begins at a huge page, to be given away or freed on the way out.
class HugeMemory {
 public:
  explicit HugeMemory(size_t bytes) : bytes_(bytes) {
    void* p = mmap(nullptr, bytes + WeightFile::kHugeBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return;
    // What lies around goes back at once: later it might be another's already.
    auto* begin = static_cast<uint8_t*>(p);
    data_ = up_to_huge(begin);
    const auto before = static_cast<size_t>(data_ - begin);
    if (before > 0) munmap(begin, before);
    munmap(data_ + bytes, WeightFile::kHugeBytes - before);
    madvise(data_, bytes, MADV_HUGEPAGE);  // advice only: refused means small pages
  }
  ~HugeMemory() {
    if (data_ != nullptr) munmap(data_, bytes_);
  }
  HugeMemory(const HugeMemory&) = delete;
  HugeMemory& operator=(const HugeMemory&) = delete;

  uint8_t* data() const { return data_; }  // null: there is no memory

  /// Puts the pages, read-only from now on, in the place of what is mapped at `to`.
  bool move_to(uint8_t* to) {
    if (mprotect(data_, bytes_, PROT_READ) != 0) return false;
    // Under one lock of the address space the old pages go and the new ones come: a reader finds either.
    if (mremap(data_, bytes_, bytes_, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED) return false;
    data_ = nullptr;
    return true;
  }

 private:
  size_t bytes_;
  uint8_t* data_ = nullptr;
};

bool read_exactly(int file, int64_t offset, uint8_t* to, int64_t bytes) {
  while (bytes > 0) {
    const ssize_t got = pread(file, to, static_cast<size_t>(bytes), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    to += got;
    offset += got;
    bytes -= got;
  }
  return true;
}

}  // namespace

WeightFile::WeightFile(int file, int64_t offset, int64_t bytes) : offset_(offset), bytes_(bytes) {
  struct stat status = {};
  if (fstat(file, &status) != 0) fail("packed weights");
  if (offset < 0 || bytes < 0 || status.st_size < offset || status.st_size - offset < bytes) {
    errno = EINVAL;
    fail("packed weights end too early");
  }
  const size_t room = static_cast<size_t>(bytes + kHugeBytes);
  void* reserved = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) fail("no address range for packed weights");
  reserved_ = static_cast<uint8_t*>(reserved);
  data_ = up_to_huge(reserved_);
  if (bytes > 0) {
    void* mapped = mmap(data_, static_cast<size_t>(bytes), PROT_READ, MAP_PRIVATE | MAP_FIXED, file, offset);
    file_ = mapped == MAP_FAILED ? -1 : fcntl(file, F_DUPFD_CLOEXEC, 0);
    if (file_ < 0) {
      const int error = errno;
      munmap(reserved_, room);
      errno = error;
      fail("packed weights cannot be mapped");
    }
    madvise(data_, static_cast<size_t>(bytes), MADV_WILLNEED);  // the disk may begin before the first fault
  }
}

WeightFile::~WeightFile() {
  stop_ = true;
  finish_moving();
  munmap(reserved_, static_cast<size_t>(bytes_ + kHugeBytes));
  if (file_ >= 0) close(file_);
}

void WeightFile::start_moving() {
  if (mover_.joinable() || moved_ > 0 || !has_huge_pages()) return;
  try {
    mover_ = std::thread([this] { move(); });
  } catch (const std::system_error&) {
    // No thread to be had: the mapped file serves as well, a little slower.
  }
}

void WeightFile::finish_moving() {
  if (mover_.joinable()) mover_.join();
}

void WeightFile::move() {
  setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNice);
  for (int64_t begin = 0; begin < bytes_; begin += kStepBytes) {
    const int64_t size = std::min(kStepBytes, bytes_ - begin);
    if (!move_step(begin, size)) return;
    moved_ += size;
  }
}

/// Reads rather than copies the mapped bytes: a disk that fails is then an error here, not a signal.
bool WeightFile::move_step(int64_t begin, int64_t size) {
  const int64_t page = sysconf(_SC_PAGESIZE), pages = (size + page - 1) / page * page;
  HugeMemory copy(static_cast<size_t>(pages));
  if (copy.data() == nullptr) return false;
  for (int64_t at = 0; at < size; at += kHugeBytes) {
    const int64_t part = std::min(kHugeBytes, size - at);
    if (stop_ || !read_exactly(file_, offset_ + begin + at, copy.data() + at, part)) return false;
  }
  if (copy.move_to(data_ + begin)) return true;
  // The system may have taken the old pages away before it failed: they are the file's again.
  mmap(data_ + begin, static_cast<size_t>(pages), PROT_READ, MAP_PRIVATE | MAP_FIXED, file_, offset_ + begin);
  return false;
}

}  // namespace narrows
