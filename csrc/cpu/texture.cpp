// How many cells of 2x2 pixels have any texture, as npr_kernels/texture.py defines it: those whose four pixels are not
// all of one colour.
//
// Cost: of each pair of rows that is looked at, the pixels once, and 6 operations of vectors of bytes for each channel.
#include "cpu/pixels.h"

namespace npr::cpu::NPR_ISA {
namespace {

// Bits in which a pixel, its right neighbour or the two below differ, added to those that did in other channels.
void add_differences(const uint8_t* __restrict row, const uint8_t* __restrict below, uint8_t* __restrict to,
                     int64_t count) {
  for (int64_t x = 0; x < count; ++x) {
    to[x] |= (row[x] ^ row[x + 1]) | (row[x] ^ below[x]) | (row[x] ^ below[x + 1]);
  }
}

}  // namespace

void texture(const Texture& p, int64_t first, int64_t last) {
  const Images& images = p.images;
  const int64_t width = images.width;
  uint8_t* const differences = workspace<uint8_t>(7 * width);
  uint8_t* const copies[2] = {differences + width, differences + 4 * width};
  for (int64_t n = first; n < last; ++n) {
    int64_t textured = 0;
    for (int64_t y = 0; y + 1 < images.height; y += p.step) {
      const uint8_t* from = images.data + n * images.stride_n + y * images.stride_h;
      const ChannelRows row(images, from, width, copies[0]);
      const ChannelRows below(images, from + images.stride_h, width, copies[1]);
      std::memset(differences, 0, width);
      for (int c = 0; c < 3; ++c) add_differences(row.of[c], below.of[c], differences, width - 1);
      for (int64_t x = 0; x + 1 < width; x += p.step) textured += differences[x] != 0;
    }
    p.out[n] = textured;
  }
}

}  // namespace npr::cpu::NPR_ISA
