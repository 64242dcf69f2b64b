// Measures the kernels without torch, so that there are numbers where the rest fails to build or to run.
//
//   nvcc -std=c++20 -O3 -arch=native -Icsrc csrc/bench/bench_kernels.cpp csrc/cuda/*.cu -o build/bench_kernels
//   build/bench_kernels --list
//   build/bench_kernels conv_forward-bf16 [--images 256] [--size 256] [--rounds 5] [--calls 10]
//
// Prints one JSON object: `us`, the median time of a call between events, `of`, the least and the most, and `bytes`,
// which are read and written at least. Before that the result on small images is held to truth.h; where it is off,
// `wrong` says so in place of the times, and where a call fails, `error`. Exit status 1 then.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>

#include "bench/memory.h"
#include "bench/truth.h"

namespace npr::bench {
namespace {

using namespace npr::cuda;

constexpr int64_t kOutputs = 64;

struct Options {
  int64_t images = 256, size = 256;
  int rounds = 5, calls = 10;
};

Problem draw(int64_t batch, int64_t height, int64_t width, int residual, bool with_gradients, Type type) {
  std::mt19937 random(1);
  const auto floats = [&](int64_t count, float low, float high) {
    std::vector<float> values(count);
    constexpr int64_t kAnew = 1 << 22;  // and then again: large gradients would take seconds
    for (int64_t i = 0; i < count; ++i) {
      values[i] = i < kAnew ? low + (high - low) * float(random() >> 8) / float(1 << 24) : values[i - kAnew];
    }
    return values;
  };
  Problem p{batch, height, width, kOutputs, residual, {}, {}, {}, {}, {}, {}, {}, {}};
  p.pixels.resize(batch * p.image_bytes());
  for (uint8_t& pixel : p.pixels) pixel = uint8_t(random());
  p.weight = floats(kOutputs * p.weights(), -1, 1);
  p.gamma = floats(kOutputs, 0.5f, 1.5f), p.beta = floats(kOutputs, -0.5f, 0.5f);
  p.mean = floats(kOutputs, -0.1f, 0.1f), p.var = floats(kOutputs, 0.5f, 1.5f);
  if (with_gradients) {
    p.conv_grad = floats(batch * p.map(), -1, 1), p.pooled_grad = floats(batch * p.pooled_map(), -1, 1);
    for (float& value : p.conv_grad) value = rounded(value, type);
    for (float& value : p.pooled_grad) value = rounded(value, type);
  }
  return p;
}

// A problem on the device, with room for every result.
struct Placed {
  Placed(const Problem& p, Type type, int batches)
      : problem(p), type(type), weight(p.weight), gamma(p.gamma), beta(p.beta), mean(p.mean), var(p.var) {
    must(current_device(device));
    for (int i = 0; i < batches; ++i) pixels.emplace_back(p.pixels);
    scale.resize(p.weights() / kPositions);
    for (const PatchTap& tap : p.taps) scale[tap.weight / kPositions] = tap.scale;
  }

  Images images(int call) const {
    const int64_t c = kChannels, h = problem.height, w = problem.width;
    return {pixels[call % pixels.size()].as<uint8_t>(), problem.batch, c, h, w, h * w * c, 1, w * c, c};
  }
  Array array(const Memory& of) const { return {of.as(), Type::f32}; }
  void* room(Memory& memory, int64_t bytes) {
    if (memory.bytes() != size_t(bytes)) memory = Memory(size_t(bytes));
    return memory.as();
  }
  static Gradient gradient(const Memory& of, Type type, int64_t outputs, int64_t rows, int64_t cols) {
    return {of.as(), type, rows * cols * outputs, 1, cols * outputs, outputs};
  }

  Problem problem;
  Type type;
  Device device;
  std::vector<double> scale;  // of each of the weight's input channels
  std::vector<Memory> pixels;
  Memory weight, gamma, beta, mean, var;
  Memory out, code, used_mean, used_var, moments, grad, grad_weight, grad_gamma, grad_beta, workspace;
};

// How far results are off: elements relative to the largest, or sums by their norms.
double off(const std::vector<double>& results, const std::vector<double>& truth, bool sums) {
  double error = 0, scale = 0;
  if (results.size() != truth.size()) return INFINITY;
  for (size_t i = 0; i < truth.size(); ++i) {
    const double e = std::abs(results[i] - truth[i]);
    if (!(e <= INFINITY)) return INFINITY;  // not a number
    error = sums ? error + e * e : std::max(error, e);
    scale = sums ? scale + truth[i] * truth[i] : std::max(scale, std::abs(truth[i]));
  }
  return sums ? std::sqrt(error / scale) : error / scale;
}

struct Deviation {
  double is, most;
};

double tolerance(Type type, bool fast) { return (fast ? 1e-3 : 1e-4) + (type == Type::bf16 ? 0x1p-7 : 0); }

struct Kernel {
  std::string name;
  int residual;                                                // index in kResiduals
  Type type;                                                   // of results and gradients
  std::function<int64_t(const Problem&, int64_t size)> bytes;  // of all images
  std::function<void(Placed&, const Truth*)> prepare;
  std::function<void(Placed&, int call)> run;
  std::function<Deviation(Placed&, const Truth&)> check;
};

template <class Operation>
void enqueue(Placed& on, const Operation& op, int64_t (*workspace)(const Operation&, Device),
             Status (*operation)(const Operation&, Device, void*, Stream)) {
  must(operation(op, on.device, on.room(on.workspace, workspace(op, on.device)), nullptr));
}

void run_moments(Placed& on, int call) {
  const int64_t length = on.problem.taps.size();
  Moments op{};
  op.images = on.images(call);
  op.residual = on.problem.residual;
  op.moments = static_cast<int64_t*>(on.room(on.moments, (1 + length + length * length) * 8));
  enqueue(on, op, moments_workspace, moments);
}

void run_conv_forward(Placed& on, int call, bool fast) {
  ConvForward op{};
  op.images = on.images(call);
  op.residual = on.problem.residual;
  op.outputs = kOutputs;
  op.weight = on.array(on.weight);
  op.channel_scale = on.scale.data();
  op.out = on.room(on.out, on.problem.batch * on.problem.map() * size_of(on.type));
  op.type = on.type;
  op.channels_last = true;
  op.fast = fast;
  enqueue(on, op, conv_forward_workspace, conv_forward);
}

void run_conv_backward(Placed& on, int call) {
  ConvBackward op{};
  op.images = on.images(call);
  op.residual = on.problem.residual;
  op.outputs = kOutputs;
  op.grad = on.gradient(on.grad, on.type, kOutputs, on.problem.rows(), on.problem.cols());
  op.channel_scale = on.scale.data();
  op.grad_weight = on.room(on.grad_weight, int64_t(on.problem.weight.size()) * 4);
  op.grad_bias = on.room(on.grad_beta, kOutputs * 4);
  op.type = Type::f32;
  enqueue(on, op, conv_backward_workspace, conv_backward);
}

void run_stem(Placed& on, int call, bool training, bool fast) {
  const Problem& p = on.problem;
  StemForward op{};
  op.images = on.images(call);
  op.residual = on.problem.residual;
  op.outputs = kOutputs;
  op.moments = training ? on.moments.as<int64_t>() : nullptr;
  op.weight = on.array(on.weight), op.bn_weight = on.array(on.gamma), op.bn_bias = on.array(on.beta);
  if (!training) op.mean = on.array(on.mean), op.var = on.array(on.var);
  op.eps = kEps;
  op.channel_scale = on.scale.data();
  op.out = on.room(on.out, p.batch * p.pooled_map() * size_of(on.type));
  op.type = on.type;
  op.code = training ? static_cast<uint8_t*>(on.room(on.code, p.batch * p.pooled_map())) : nullptr;
  op.used_mean = static_cast<double*>(on.room(on.used_mean, kOutputs * 8));
  op.used_var = static_cast<double*>(on.room(on.used_var, kOutputs * 8));
  op.fast = fast;
  enqueue(on, op, stem_forward_workspace, stem_forward);
}

void run_stem_backward(Placed& on, int call) {
  const Problem& p = on.problem;
  StemBackward op{};
  op.images = on.images(call);
  op.residual = on.problem.residual;
  op.outputs = kOutputs;
  op.grad = on.gradient(on.grad, on.type, kOutputs, p.pooled_rows(), p.pooled_cols());
  op.code = on.code.as<uint8_t>();
  op.moments = on.moments.as<int64_t>();
  op.weight = on.array(on.weight), op.bn_weight = on.array(on.gamma);
  op.mean = on.used_mean.as<double>(), op.var = on.used_var.as<double>();
  op.eps = kEps;
  op.channel_scale = on.scale.data();
  op.grad_weight = on.room(on.grad_weight, int64_t(p.weight.size()) * 4);
  op.grad_bn_weight = on.room(on.grad_gamma, kOutputs * 4);
  op.grad_bn_bias = on.room(on.grad_beta, kOutputs * 4);
  op.type = Type::f32;
  enqueue(on, op, stem_backward_workspace, stem_backward);
}

// What a training forward pass leaves: the truth's for the check, so that each kernel is judged alone, and otherwise
// that of the kernels.
void after_forward(Placed& on, const Truth* truth) {
  on.grad = upload(on.problem.pooled_grad, on.type);
  if (truth == nullptr) {
    run_moments(on, 0);
    run_stem(on, 0, true, false);
    return;
  }
  on.moments = Memory(truth->moments), on.code = Memory(truth->code);
  on.used_mean = Memory(truth->mean), on.used_var = Memory(truth->var);
}

int64_t map_bytes(const Problem& p, int64_t size) { return p.batch * (p.image_bytes() + p.map() * size); }
int64_t pooled_bytes(const Problem& p, int64_t size) { return p.batch * (p.image_bytes() + p.pooled_map() * size); }
int64_t codes_bytes(const Problem& p, int64_t size) { return pooled_bytes(p, size + 1); }
int64_t read_bytes(const Problem& p, int64_t) { return p.batch * p.image_bytes(); }

void prepare_nothing(Placed&, const Truth*) {}
void prepare_moments(Placed& on, const Truth*) { run_moments(on, 0); }
void prepare_gradient(Placed& on, const Truth*) { on.grad = upload(on.problem.conv_grad, on.type); }

Deviation check_codes(Placed& on, const Truth& t) {
  const std::vector<uint8_t> code = on.code.values<uint8_t>();
  // Rounding, and ties of 16-bit results, may let another maximum win: far fewer than the thousandth that is allowed.
  int64_t others = 0;
  for (size_t i = 0; i < code.size(); ++i) others += code[i] != t.code[i];
  if (others > int64_t(code.size() / 1000)) return {INFINITY, 0};
  return {off(download(on.out, on.type), t.training, false), tolerance(on.type, false)};
}

double off_sums(const Memory& results, const std::vector<double>& truth) {
  return off(download(results, Type::f32), truth, true);
}
Deviation check_stem_backward(Placed& on, const Truth& t) {
  return {std::max({off_sums(on.grad_weight, t.grad_weight), off_sums(on.grad_gamma, t.grad_gamma),
                    off_sums(on.grad_beta, t.grad_beta)}),
          1e-4};
}
Deviation check_conv_backward(Placed& on, const Truth& t) {
  return {off_sums(on.grad_weight, t.conv_grad_weight), 1e-4};
}
Deviation check_moments(Placed& on, const Truth& t) {
  return {on.moments.values<int64_t>() == t.moments ? 0.0 : INFINITY, 0};
}

void add_kernels(std::vector<Kernel>& all, int residual, Type type) {
  const auto add = [&](std::string name, auto... of) { all.push_back({std::move(name), residual, type, of...}); };
  const std::string own = residual == 0 ? "" : std::string("-") + kResiduals[residual].name;
  const std::string ending = (type == Type::bf16 ? "-bf16" : "-f32") + own;
  for (const bool fast : {false, true}) {
    if (fast && residual != 0) continue;
    const std::string how = ending + (fast ? "-fast" : "");
    const auto check = [=](std::vector<double> Truth::* truth) {
      return [=](Placed& on, const Truth& t) {
        return Deviation{off(download(on.out, type), t.*truth, false), tolerance(type, fast)};
      };
    };
    add(
        "conv_forward" + how, map_bytes, prepare_nothing,
        [=](Placed& on, int call) { run_conv_forward(on, call, fast); }, check(&Truth::map));
    add(
        "stem_forward" + how, pooled_bytes, prepare_nothing,
        [=](Placed& on, int call) { run_stem(on, call, false, fast); }, check(&Truth::inference));
  }
  add(
      "stem_forward_codes" + ending, codes_bytes, prepare_moments,
      [](Placed& on, int call) { run_stem(on, call, true, false); }, check_codes);
  add("stem_backward" + ending, codes_bytes, after_forward, run_stem_backward, check_stem_backward);
  add("conv_backward" + ending, map_bytes, prepare_gradient, run_conv_backward, check_conv_backward);
  if (type == Type::bf16) add("moments" + own, read_bytes, prepare_nothing, run_moments, check_moments);
}

std::vector<Kernel> kernels() {
  std::vector<Kernel> all;
  add_kernels(all, 0, Type::bf16);
  add_kernels(all, 0, Type::f32);
  for (int residual = 1; residual < int(std::size(kResiduals)); ++residual) add_kernels(all, residual, Type::bf16);
  return all;
}

// Prints what became of a kernel; the exit status.
int measure(const Kernel& kernel, const Options& options) {
  const bool backward = kernel.name.find("backward") != std::string::npos;
  std::printf("{\"work\": \"%s\", ", kernel.name.c_str());
  try {
    const Problem small = draw(2, 18, 136, kernel.residual, true, kernel.type);
    const Truth t = truth(small);
    Placed checked(small, kernel.type, 1);
    kernel.prepare(checked, &t);
    kernel.run(checked, 0);
    const Deviation deviation = kernel.check(checked, t);
    if (!(deviation.is <= deviation.most)) {
      std::printf("\"wrong\": \"off by %.2g, at most %.2g is right\"}\n", deviation.is, deviation.most);
      return 1;
    }
    const Problem large = draw(options.images, options.size, options.size, kernel.residual, backward, kernel.type);
    // Together larger than a cache, but for tiny images.
    const int batches = int(std::clamp<int64_t>((256 << 20) / (large.batch * large.image_bytes()), 2, 8));
    Placed on(large, kernel.type, batches);
    kernel.prepare(on, nullptr);
    std::vector<double> times = microseconds(options.rounds, options.calls, [&](int call) { kernel.run(on, call); });
    std::sort(times.begin(), times.end());
    std::printf(
        "\"us\": %.3f, \"of\": [%.3f, %.3f], \"calls\": %zu, \"images\": %lld, \"size\": %lld, "
        "\"bytes\": %lld, \"deviation\": %.3g}\n",
        times[times.size() / 2], times.front(), times.back(), times.size(), (long long)options.images,
        (long long)options.size, (long long)kernel.bytes(large, size_of(kernel.type)), deviation.is);
    return 0;
  } catch (const std::exception& error) {
    std::string text = error.what();
    std::replace_if(text.begin(), text.end(), [](char c) { return c == '"' || c == '\\' || c < ' '; }, ' ');
    std::printf("\"error\": \"%s\"}\n", text.c_str());
    return 1;
  }
}

int main(int count, char** arguments) {
  const std::vector<Kernel> all = kernels();
  Options options;
  const Kernel* chosen = nullptr;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    const auto of = [&](const Kernel& kernel) { return kernel.name == argument; };
    if (argument == "--list") {
      for (const Kernel& kernel : all) std::printf("%s\n", kernel.name.c_str());
      return 0;
    }
    if (const auto found = std::find_if(all.begin(), all.end(), of); found != all.end()) {
      chosen = &*found;
      continue;
    }
    const long long value = i + 1 < count ? std::atoll(arguments[i + 1]) : 0;
    if (value > 0 && argument == "--images")
      options.images = value;
    else if (value > 0 && argument == "--size")
      options.size = value;
    else if (value > 0 && argument == "--rounds")
      options.rounds = int(value);
    else if (value > 0 && argument == "--calls")
      options.calls = int(value);
    else
      chosen = nullptr, i = count;
    ++i;
  }
  if (chosen == nullptr) {
    std::fprintf(stderr, "usage: bench_kernels --list | KERNEL [--images N] [--size N] [--rounds N] [--calls N]\n");
    return 2;
  }
  return measure(*chosen, options);
}

}  // namespace
}  // namespace npr::bench

int main(int count, char** arguments) { return npr::bench::main(count, arguments); }
