// One arena for the keys and values of all layers. Pages are zero until written, so untouched blocks cost no
// memory. Order: block, layer, kv head, then a page of keys and a page of values. Blocks come first because
// huge pages are then filled by the blocks in use: with layers first, the first token of a model of 28 layers
// waited for 28 huge pages, of which it used a few KiB each.
#include <sys/mman.h>

#include <new>

#include "narrows/transformer.h"

namespace narrows {
namespace {

/// Keys and values of one kv head in one block; pages begin at cache lines.
int64_t head_bytes(const Layer& layer) {
  return kv_key_bytes(layer.kv, layer.head_dim) + kv_value_bytes(layer.kv, layer.head_dim);
}

int64_t checked_product(int64_t a, int64_t b) {
  int64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) throw std::bad_alloc();
  return product;
}

}  // namespace

int64_t KvPages::block_bytes(const Model& model) {
  int64_t bytes = 0;
  for (const Layer& layer : model.layers) bytes += layer.kv_heads * head_bytes(layer);
  return bytes;
}

KvPages::KvPages(const Model& model, int32_t num_blocks) : num_blocks_(num_blocks) {
  for (const Layer& layer : model.layers) {
    key_bytes_.push_back(kv_key_bytes(layer.kv, layer.head_dim));
    head_bytes_.push_back(head_bytes(layer));
    offsets_.push_back(stride_);
    stride_ += layer.kv_heads * head_bytes(layer);
  }
  bytes_ = checked_product(stride_, num_blocks);
  if (bytes_ == 0) return;
  void* data = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  madvise(data, bytes_, MADV_HUGEPAGE);  // only a hint: kernels without huge pages refuse it
  data_ = static_cast<uint8_t*>(data);
}

KvPages::~KvPages() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

void* KvPages::k(int32_t layer, int32_t kv_head) const {
  return data_ + offsets_[layer] + kv_head * head_bytes_[layer];
}

void* KvPages::v(int32_t layer, int32_t kv_head) const {
  return data_ + offsets_[layer] + kv_head * head_bytes_[layer] + key_bytes_[layer];
}

}  // namespace narrows
