// The Python class of a mixture of experts. Shapes and bounds are checked here, once.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "binding_types.h"
#include "common.h"
#include "compressed_bindings.h"
#include "integers.h"
#include "memory.h"

namespace deepwell {

constexpr int kMaxTopK = 64;

struct PyMoe {
  PyMoe(Vector norm, Floats router, std::optional<Vector> correction_bias, const PyMatrix& gate_up, const PyMatrix& down,
        const PyMatrix* shared_gate_up, const PyMatrix* shared_down, int num_experts, int top_k, const std::string& scoring,
        int n_group, int topk_group, bool norm_topk_prob, float routed_scaling_factor, float eps, float limit,
        std::optional<Array<const int32_t, nb::ndim<2>>> token_experts, const PyHyper* hyper)
      : keep_norm(norm), keep_correction(correction_bias), keep_gate_up(gate_up), keep_down(down), counts(max_of(num_experts, 0) + 1) {
    const Matrix &g = gate_up.matrix, &d = down.matrix;
    int hidden = g.cols;
    require(num_experts >= 1 && num_experts <= kMaxExperts, "moe: num_experts must be between 1 and 1024");
    require(n_group >= 1 && num_experts % n_group == 0, "moe: n_group must divide num_experts");
    require(topk_group >= 1 && topk_group <= n_group, "moe: topk_group must be between 1 and n_group");
    require(top_k >= 1 && top_k <= kMaxTopK && top_k <= num_experts / n_group * topk_group,
            "moe: top_k must be between 1 and 64, and no more than the experts of topk_group groups");
    constexpr const char* scorings[] = {"softmax", "sigmoid", "sqrtsoftplus"};  // in the order of Scoring
    int chosen = 0;
    while (chosen < 3 && scoring != scorings[chosen]) chosen++;
    if (chosen == 3) fail("moe: scoring must be softmax, sigmoid or sqrtsoftplus, not '" + scoring + "'");
    require(limit >= 0.0f, "moe: the limit must not be negative");
    require(!hyper || hyper->hidden() == hidden, "moe: the residual streams have another hidden size");
    if (token_experts) {
      require(int(token_experts->shape(1)) == top_k, "moe: token_experts must be [vocab, top_k]");
      // The kernels count on different experts, as routing gives them.
      for (size_t i = 0; i < token_experts->size(); i++) {
        const int32_t* chosen_by = token_experts->data() + i / top_k * top_k;
        require(chosen_by[i % top_k] >= 0 && chosen_by[i % top_k] < num_experts, "moe: a token chooses an expert that does not exist");
        for (size_t j = 0; j < i % top_k; j++) require(chosen_by[j] != chosen_by[i % top_k], "moe: a token chooses an expert twice");
      }
    }
    require(!correction_bias || int(correction_bias->size()) == num_experts, "moe: correction_bias has the wrong size");
    require(!correction_bias || topk_group == n_group || num_experts / n_group >= 2,
            "moe: a corrected group is scored by its two best experts and needs as many");
    require(int(router.shape(0)) == num_experts && int(router.shape(1)) == hidden, "moe: router must be [num_experts, hidden]");
    require(int(norm.size()) == hidden, "moe: norm has the wrong size");
    require(g.rows % num_experts == 0 && g.rows / num_experts % kPanel == 0,
            "moe: gate_up must have a multiple of 32 rows for each expert");
    require(d.cols == g.rows / num_experts / 2, "moe: down is not as wide as an expert's gate");
    int padded = round_up(hidden, kPanel);
    require(int64_t(d.rows) == int64_t(num_experts) * padded, "moe: down must have hidden rows, padded to 32, for each expert");
    require(bool(shared_gate_up) == bool(shared_down), "moe: shared_gate_up and shared_down come together");
    layer = {norm.data(), {}, correction_bias ? correction_bias->data() : nullptr, g, d, shared_gate_up != nullptr, {}, {}, num_experts,
             top_k, Scoring(chosen), n_group, topk_group, norm_topk_prob, routed_scaling_factor, eps, counts.data(), limit,
             token_experts ? token_experts->data() : nullptr, nullptr};
    keep_token_experts = token_experts;
    if (hyper) {
      keep_hyper.emplace(*hyper);
      layer.hyper = &keep_hyper->layer;
    }
    if (shared_gate_up) {
      const Matrix &sg = shared_gate_up->matrix, &sd = shared_down->matrix;
      require(sg.cols == hidden && sg.rows % kPanel == 0, "moe: shared_gate_up has the wrong shape");
      require(sg.scheme == g.scheme, "moe: shared_gate_up must have the scheme of gate_up");
      require(sd.rows == hidden && sd.cols <= sg.rows / 2, "moe: shared_down has the wrong shape");
      keep_shared_gate_up = *shared_gate_up, keep_shared_down = *shared_down;
      layer.shared_gate_up = sg, layer.shared_down = sd;
    }
    // The router as a matrix of panels, [panels][hidden][32]: a product with it is a chain in column order.
    int panels = ceil_div(num_experts, kPanel);
    router_memory.reset(size_t(panels) * hidden * kPanel * sizeof(float));
    float* to = reinterpret_cast<float*>(router_memory.data());
    for (int e = 0; e < num_experts; e++)
      for (int c = 0; c < hidden; c++)
        to[(size_t(e / kPanel) * hidden + c) * kPanel + e % kPanel] = router.data()[size_t(e) * hidden + c];
    layer.router = {router_memory.data(), num_experts, hidden, kFp32, panels, hidden, 1, kPanel * sizeof(float)};
  }
  PyMoe(const PyMoe&) = delete;

  // Tokens that choose their experts; 0: all are routed.
  int vocab() const { return keep_token_experts ? int(keep_token_experts->shape(0)) : 0; }

  std::vector<uint64_t> loads() const {  // a step may be counting
    std::vector<uint64_t> seen(counts.size());
    for (size_t i = 0; i < seen.size(); i++) seen[i] = __atomic_load_n(&counts[i], __ATOMIC_RELAXED);
    return seen;
  }

  MoeLayer layer;
  Vector keep_norm;
  std::optional<Vector> keep_correction;
  std::optional<Array<const int32_t, nb::ndim<2>>> keep_token_experts;
  std::optional<PyHyper> keep_hyper;
  PyMatrix keep_gate_up, keep_down;
  std::optional<PyMatrix> keep_shared_gate_up, keep_shared_down;
  std::vector<uint64_t> counts;
  HugeBuffer router_memory;
};

inline void bind_moe(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<PyMoe>(m, "Moe")
      .def(nb::init<Vector, Floats, std::optional<Vector>, const PyMatrix&, const PyMatrix&, const PyMatrix*, const PyMatrix*, int,
                    int, const std::string&, int, int, bool, float, float, float, std::optional<Array<const int32_t, nb::ndim<2>>>,
                    const PyHyper*>(),
           "norm"_a, "router"_a, "correction_bias"_a.none(), "gate_up"_a, "down"_a, "shared_gate_up"_a.none(),
           "shared_down"_a.none(), "num_experts"_a, "top_k"_a, "scoring"_a, "n_group"_a, "topk_group"_a, "norm_topk_prob"_a,
           "routed_scaling_factor"_a, "eps"_a, "limit"_a = 0.0f, "token_experts"_a.none() = nb::none(), "hyper"_a.none() = nb::none());
}

}  // namespace deepwell
