// One arena for the keys and values of all layers. Pages are zero until written, so untouched blocks cost no
// memory. Order: block, layer, kv head, then K [head_dim][16] and V [16][head_dim]. Blocks come first because
// huge pages are then filled by the blocks in use: with layers first, the first token of a model of 28 layers
// waited for 28 huge pages, of which it used a few KiB each.
#include <sys/mman.h>

#include <new>

#include "narrows/transformer.h"

namespace narrows {
namespace {

int64_t element_bytes(bool f32) { return f32 ? 4 : 2; }
int64_t head_elements(const Layer& layer) {
  return int64_t{layer.head_dim} * kKvBlock;
}  // K or V of one block
int64_t block_elements(const Layer& layer) {
  return 2 * layer.kv_heads * head_elements(layer);
}  // a multiple of 32: every page begins at a cache line

int64_t checked_product(int64_t a, int64_t b) {
  int64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) throw std::bad_alloc();
  return product;
}

}  // namespace

int64_t KvPages::block_bytes(const Model& model, bool f32) {
  int64_t elements = 0;
  for (const Layer& layer : model.layers) elements += block_elements(layer);
  return elements * element_bytes(f32);
}

KvPages::KvPages(const Model& model, int32_t num_blocks, bool f32) : num_blocks_(num_blocks), f32_(f32) {
  for (const Layer& layer : model.layers) {
    head_strides_.push_back(head_elements(layer));
    offsets_.push_back(stride_);
    stride_ += block_elements(layer);
  }
  const int64_t total = checked_product(stride_ * element_bytes(f32), num_blocks);
  bytes_ = total;
  if (total == 0) return;
  void* data = mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  madvise(data, total, MADV_HUGEPAGE);  // only a hint: kernels without huge pages refuse it
  data_ = static_cast<uint8_t*>(data);
}

KvPages::~KvPages() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

void* KvPages::k(int32_t layer, int32_t kv_head) const {
  return data_ + (offsets_[layer] + 2 * kv_head * head_strides_[layer]) * element_bytes(f32_);
}

void* KvPages::v(int32_t layer, int32_t kv_head) const {
  return data_ + (offsets_[layer] + (2 * kv_head + 1) * head_strides_[layer]) * element_bytes(f32_);
}

}  // namespace narrows
