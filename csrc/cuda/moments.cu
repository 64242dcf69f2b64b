// Moments of the patches: their number, the sum of d and of d d^T, exactly.
//
// Batch normalisation's statistics of a convolution that is linear in d follow from these 1 + K + K^2 integers, K = 24
// of npr. The differences are linear themselves, d = T u, in bytes around the output and a 1 (planes.cuh). So the sum
// of d d^T is T G T^T with the Gram matrix G of the u's: products of bytes, which tensor cores add up in int32,
// outputs being the MMA's k. G is symmetric, so only the tiles on and above the diagonal are made; T comes once, when
// all is added up, and the moments are the products of T's rows, and of the 1. Bytes outside the image are zero, and
// so are their differences; outputs outside are left out.
//
// A warp works on its own, down a strip of 128 outputs, row by row: it forms the planes of a row of cells in a ring of
// rows in shared memory, starts to load the pixels of the next one, and multiplies what its outputs see of the ring.
// All warps have as many rows, which may begin anywhere. int32 holds as many products as 33025 outputs have; there are
// so many warps that none has more. Blocks add up in int64.
//
// Bytes: 12 read per output; 256 images of 256x256 are 50 MB. Instructions of a warp for 32 outputs of npr: 61, of
// which 9 multiply, 3 load matrices and 14 copy registers to where MMAs want them, and 26 form planes.
//
// Other than 3 channels take a plain kernel, and are at most 8191, or fewer where taps are more.
#include "cuda/plain.cuh"
#include "cuda/planes.cuh"

namespace npr::cuda {
namespace {

constexpr int kOutputs = 32;  // of an MMA

// The products that are made: MMA tiles of the octets 2m and 2m + 1 with octet c, the first that is not made already.
template <int kResidual>
struct Products {
  using S = Streams<kResidual>;
  static constexpr int kOctets = S::kOctets, kSquares = (kOctets + 1) / 2;

  // Whether a square has a single octet, which is then the other one too.
  NPR_HOST_DEVICE static constexpr bool of_one_octet(int square) { return 2 * square + 1 == kOctets; }

  // The product number that holds rows of octet `row` and columns of octet `column` >= row.
  NPR_HOST_DEVICE static constexpr int number(int row, int column) {
    const int m = row / 2, before = m * kOctets - m * (m - 1);  // products of the octets above
    return before + column - 2 * m;
  }
  static constexpr int kCount = number(2 * (kSquares - 1), kOctets - 1) + 1;

  // The sum of a stream times another, not smaller one is at row() of the one + column() of the other among the sums
  // [product][value][lane].
  static constexpr int kSums = kCount * 4 * kWarp;
  static constexpr int row(int stream) {
    const int octet = stream / kOctet;
    return (number(octet, 0) * 4 + octet % 2 * 2) * kWarp + stream % kOctet * 4;
  }
  static constexpr int column(int stream) {
    const int in_octet = stream % kOctet;
    return (stream / kOctet * 4 + in_octet % 2) * kWarp + in_octet / 2;
  }
};

// Two blocks share a multiprocessor, of as many warps as registers allow.
template <int kResidual>
constexpr int kWarps = kResidual == 0   ? 10
                       : kResidual == 1 ? 6
                                        : 4;
constexpr int kBlocks = 2;

// The strips of 128 outputs across, one image's after another's, and the rows of outputs of all of them.
struct Strips {
  Images images;
  int rows, cols;  // of outputs
  int across, count;
  bool words;  // of copies

  struct Run {
    int image, row, col, rows;
  };
  // As many rows of outputs from number `index` on as are in one strip.
  __device__ Run run(int index, int last) const {
    const int strip = index / rows, row = index % rows;
    return {strip / across, row, strip % across * kPlaneCells, min(rows - row, last - index)};
  }
};

template <int kResidual>
struct Ring {
  using S = Streams<kResidual>;
  static constexpr int kRowBytes = S::kCount * kPlanePitch, kBytes = S::kRows * kRowBytes;
  __align__(16) uint8_t bytes[kBytes];
};

// A warp's, when pixels are copied.
template <int kResidual>
struct RingAndPixels : Ring<kResidual> {
  __align__(8) Copied pixels;
};

// What lanes look up, for the kernel's parameters.
template <int kResidual>
struct Tables {
  using P = Products<kResidual>;
  static constexpr int kStreams = P::kOctets * kOctet;
  Combinations<kResidual> combinations;
  int16_t row[kStreams], column[kStreams];  // of Products
  int matrix[kStreams];                     // where a stream's bytes begin in a ring whose first row is that above

  constexpr Tables() : row{}, column{}, matrix{} {
    for (int i = 0; i < kStreams; ++i) {
      const auto [of_row, plane] = Streams<kResidual>::at(i);
      row[i] = int16_t(P::row(i)), column[i] = int16_t(P::column(i));
      matrix[i] = (1 + of_row) * Ring<kResidual>::kRowBytes + plane * kPlanePitch;
    }
  }
};

template <int kResidual, Access access>
union Shared {
  std::conditional_t<access == Access::copied, RingAndPixels<kResidual>, Ring<kResidual>> rings[kWarps<kResidual>];
  int sums[kWarps<kResidual>][Products<kResidual>::kSums];
};

// Adds the products of 32 outputs; `matrices` are the lane's rows of matrices for ldmatrix.
template <int kResidual>
__device__ void add_products(IntegerAccumulator (&sums)[Products<kResidual>::kCount],
                             const SharedAddress (&matrices)[Products<kResidual>::kSquares], int first) {
  using P = Products<kResidual>;
  FragmentA squares[P::kSquares];
#pragma unroll
  for (int m = 0; m < P::kSquares; ++m) {
    if (P::of_one_octet(m)) {
      uint32_t halves[2];
      load_matrices_at<false>(halves, matrices[m] + first);
      squares[m] = {halves[0], halves[0], halves[1], halves[1]};
    } else {
      load_matrices_at<false>(squares[m].words, matrices[m] + first);
    }
  }
  FragmentB columns[P::kOctets];
#pragma unroll
  for (int c = 0; c < P::kOctets; ++c) columns[c] = {squares[c / 2].words[c % 2], squares[c / 2].words[c % 2 + 2]};
#pragma unroll
  for (int c = 0; c < P::kOctets; ++c) {
#pragma unroll
    for (int m = 0; m <= c / 2; ++m) multiply_add_bytes(sums[P::number(2 * m, c)], squares[m], columns[c]);
  }
}

template <int kResidual>
constexpr int kMoments = (1 + Slots<kResidual>::kTaps) * Slots<kResidual>::kTaps;  // but for the number of outputs

// Adds up the sums of the block's warps, and stores the moments that follow from them. `shared` may lie where others
// still read.
template <int kResidual>
__device__ void store_partial(const IntegerAccumulator (&sums)[Products<kResidual>::kCount],
                              int (&shared)[kWarps<kResidual>][Products<kResidual>::kSums],
                              const Tables<kResidual>& tables, int64_t* partial) {
  using P = Products<kResidual>;
  constexpr int kTaps = Slots<kResidual>::kTaps, kThreads = kWarps<kResidual> * kWarp;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < P::kCount; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) shared[warp_index()][(i * 4 + j) * kWarp + lane_index()] = sums[i].values[j];
  }
  __syncthreads();
  // In 64 bits, the lower half in the place of the first warp's sums, the upper one in that of the second's.
  for (int i = threadIdx.x; i < P::kSums; i += kThreads) {
    int64_t sum = 0;
    for (const auto& of_warp : shared) sum += of_warp[i];
    shared[0][i] = int(sum), shared[1][i] = int(sum >> 32);
  }
  __syncthreads();

  // Row k of the combinations times row l: first of the taps with the last row, the constant, then with each other.
  for (int i = threadIdx.x; i < kMoments<kResidual>; i += kThreads) {
    const int k = i % kTaps, l = i < kTaps ? kTaps : i / kTaps - 1;
    int64_t sum = 0;
    for (const auto& [stream, factor] : tables.combinations.terms[k]) {
      if (factor == 0) break;
      for (const auto& [other, other_factor] : tables.combinations.terms[l]) {
        if (other_factor == 0) break;
        const int at = tables.row[min(stream, other)] + tables.column[max(stream, other)];
        sum += factor * other_factor * (int64_t{shared[1][at]} << 32 | uint32_t(shared[0][at]));
      }
    }
    partial[i] = sum;
  }
}

template <int kResidual, Access access>
__global__ void __launch_bounds__(kWarps<kResidual>* kWarp, kBlocks)
    moments_kernel(const __grid_constant__ Strips strips, const __grid_constant__ Tables<kResidual> tables,
                   int64_t* partial) {
  using P = Products<kResidual>;
  using S = Streams<kResidual>;
  constexpr int kRowBytes = Ring<kResidual>::kRowBytes, kLastRow = Ring<kResidual>::kBytes - kRowBytes;
  auto& shared = dynamic_shared<Shared<kResidual, access>>();
  uint8_t* const ring = shared.rings[warp_index()].bytes;
  const int lane = lane_index();

  // Where the row formed last begins, the lowest that streams are of, and the rows of matrices whose addresses this
  // lane gives to ldmatrix: of octets 2m and 2m + 1 the first half of k, then the second.
  int formed = kLastRow;
  SharedAddress matrices[P::kSquares], last_row = shared_address(ring) + kLastRow;
#pragma unroll
  for (int m = 0; m < P::kSquares; ++m) {
    const int octet = P::of_one_octet(m) ? 0 : lane / 8 % 2, half = P::of_one_octet(m) ? lane / 8 % 2 : lane / 16;
    matrices[m] = shared_address(ring) + tables.matrix[(2 * m + octet) * kOctet + lane % kOctet] + half * 16;
  }
  for (int row = 0; row < S::kRows; ++row) {
    uint8_t* ones = ring + row * kRowBytes + S::kOnesPlane * kPlanePitch;
    reinterpret_cast<uint32_t*>(ones)[lane] = 0x01010101u;
  }

  IntegerAccumulator sums[P::kCount] = {};
  const int64_t warp = int64_t(blockIdx.x) * kWarps<kResidual> + warp_index(),
                warps = int64_t(gridDim.x) * kWarps<kResidual>;
  const int last = int(strips.count * (warp + 1) / warps);
  for (int index = int(strips.count * warp / warps); index < last;) {
    const Strips::Run run = strips.run(index, last);
    index += run.rows;
    const Images& images = strips.images;
    const int left = kCell * (run.col + kCellsOfLane * lane), right = kCell * strips.cols - left;
    const uint8_t* from =
        images.data + run.image * images.stride_n + left * images.stride_w + kCell * (run.row - 1) * images.stride_h;
    LaneCells<kResidual, access> cells;
    const auto load = [&](int row) {  // each row in turn
      const int exist = row >= 0 && row < strips.rows ? right : -left;
      if constexpr (access == Access::copied) {
        auto& pixels = shared.rings[warp_index()].pixels;
        strips.words ? cells.template copy<uint32_t>(pixels, images, from, left, exist)
                     : cells.template copy<uint8_t>(pixels, images, from, left, exist);
      } else {
        cells.load(images, from, left, exist);
      }
      from += kCell * images.stride_h;
    };
    const int first = run.row + S::kRows - 2;  // the first row of cells whose planes complete a row of outputs
    load(run.row - 1);
#pragma unroll 1
    for (int row = run.row - 1; row < first + run.rows; ++row) {
      formed += formed < kLastRow ? kRowBytes : -kLastRow;
#pragma unroll
      for (SharedAddress& matrix : matrices) matrix += matrix < last_row ? kRowBytes : -kLastRow;
      if constexpr (access == Access::copied) {
        __syncwarp();
        cells.load(shared.rings[warp_index()].pixels);
      }
      cells.store(ring + formed, right);
      __syncwarp();
      if (row + 1 < first + run.rows) load(row + 1);
      if (row >= first) {
#pragma unroll
        for (int x = 0; x < kPlaneCells; x += kOutputs) {
          if (run.col + x < strips.cols) add_products<kResidual>(sums, matrices, x);
        }
      }
      __syncwarp();
    }
  }

  store_partial<kResidual>(sums, shared.sums, tables, partial + int64_t(blockIdx.x) * kMoments<kResidual>);
}

// moments = the number of outputs, and the sums of the blocks' partial sums. A warp's lanes are neighbouring elements,
// its block's warps take every 32nd partial sum.
constexpr int kSlices = 32;

__global__ void __launch_bounds__(kSlices* kWarp)
    moments_finish(const int64_t* partial, int blocks, int count, int64_t outputs, int64_t* moments) {
  __shared__ int64_t slices[kSlices][kWarp];
  const int element = int(blockIdx.x) * kWarp + lane_index(), slice = warp_index();
  int64_t sum = 0;
  if (element < count) {
#pragma unroll 8
    for (int block = slice; block < blocks; block += kSlices) sum += partial[int64_t(block) * count + element];
  }
  slices[slice][lane_index()] = sum;
  __syncthreads();
  if (slice != 0 || element >= count) return;
  for (int i = 1; i < kSlices; ++i) sum += slices[i][lane_index()];
  moments[1 + element] = sum;
  if (element == 0) moments[0] = outputs;
}

// Tiles, to count them, are a row of a strip.
struct Row {
  static constexpr int kRows = 1, kCols = kPlaneCells;
};

template <int kResidual>
unsigned blocks_for(const Tiling& tiling, Device device) {
  constexpr int kMostRows = int(((int64_t(1) << 31) - 1) / (255 * 255 * kPlaneCells));
  return std::max(persistent_blocks(ceil_div(tiling.count, kWarps<kResidual>), device, kBlocks),
                  unsigned(ceil_div(tiling.count, kWarps<kResidual> * kMostRows)));
}

template <int kResidual>
Status moments_on_tensor_cores(const Moments& op, Device device, void* workspace, Stream stream) {
  const Tiling tiling = Tiling::of<Row>(op.images);
  if (const Status status = tiling.check(op.images); !status.ok()) return status;
  const Strips strips{op.images, tiling.rows, tiling.cols, tiling.across, tiling.count, copied_as_words(op.images)};
  const unsigned blocks = blocks_for<kResidual>(tiling, device);
  auto* partial = static_cast<int64_t*>(workspace);
  const auto sum_up = [&]<Access access>(std::integral_constant<Access, access>) {
    return launch<Shared<kResidual, access>>("moments_kernel", moments_kernel<kResidual, access>, blocks,
                                             kWarps<kResidual> * kWarp, stream, strips, Tables<kResidual>(), partial);
  };
  const Access access = access_of(op.images);
  const Status status = access == Access::planar        ? sum_up(std::integral_constant<Access, Access::planar>{})
                        : access == Access::interleaved ? sum_up(std::integral_constant<Access, Access::interleaved>{})
                                                        : sum_up(std::integral_constant<Access, Access::copied>{});
  if (!status.ok()) return status;
  constexpr int kCount = kMoments<kResidual>;
  const int64_t outputs = op.images.batch * op.images.rows() * op.images.cols();
  return launch("moments_finish", moments_finish, unsigned(ceil_div(kCount, kWarp)), kSlices * kWarp, stream,
                static_cast<const int64_t*>(partial), int(blocks), kCount, outputs, op.moments);
}

}  // namespace

// ---- Launchers -------------------------------------------------------------------------------------

int64_t moments_workspace(const Moments& op, Device device) {
  if (op.images.channels != kChannels) return 0;
  return with_residual(op.residual, [&](auto residual) {
    return blocks_for<residual()>(Tiling::of<Row>(op.images), device) * int64_t(kMoments<residual()>) * 8;
  });
}

Status moments(const Moments& op, Device device, void* workspace, Stream stream) {
  if (op.images.channels != kChannels) return moments_plainly(op, stream);
  return with_residual(
      op.residual, [&](auto residual) { return moments_on_tensor_cores<residual()>(op, device, workspace, stream); });
}

}  // namespace npr::cuda
