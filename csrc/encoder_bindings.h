// The encoder's Python classes. Shapes and bounds are checked here, once.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "binding_types.h"
#include "common.h"
#include "encoder_model.h"
#include "integers.h"
#include "memory.h"
#include "pool.h"

namespace deepwell {

// A vector copied behind zeros up to whole panels, so that epilogues read whole vectors.
class PaddedVector {
 public:
  PaddedVector(Vector values, int size, const char* message) {
    require(int(values.size()) == size, message);
    floats_.assign(round_up(size, kPanel), 0.0f);
    std::copy_n(values.data(), size, floats_.begin());
  }
  const float* data() const { return floats_.data(); }

 private:
  std::vector<float> floats_;
};

struct PyEncoderAttention {
  PyEncoderAttention(const PyMatrix& qkv, Vector qkv_bias, const PyMatrix& o, Vector o_bias, Vector norm, Vector shift, int heads,
                     float eps)
      : keep_qkv(qkv), keep_o(o),
        vectors{{qkv_bias, qkv.matrix.rows, "encoder attention: qkv_bias has the wrong size"},
                {o_bias, o.matrix.rows, "encoder attention: o_bias has the wrong size"},
                {norm, o.matrix.rows, "encoder attention: norm has the wrong size"},
                {shift, o.matrix.rows, "encoder attention: shift has the wrong size"}} {
    int hidden = qkv.matrix.cols;
    require(heads > 0 && hidden % heads == 0 && hidden / heads <= kMaxHeadDim, "encoder attention: heads do not fit the hidden size");
    require(qkv.matrix.rows == 3 * hidden && o.matrix.rows == hidden && o.matrix.cols == hidden,
            "encoder attention: qkv must be [3 hidden, hidden], o [hidden, hidden]");
    require(qkv.matrix.scheme == o.matrix.scheme, "encoder attention: qkv and o differ in scheme");
    layer = {qkv.matrix, o.matrix, vectors[0].data(), vectors[1].data(), vectors[2].data(), vectors[3].data(),
             heads, hidden / heads, eps};
  }
  PyEncoderAttention(const PyEncoderAttention&) = delete;
  PyMatrix keep_qkv, keep_o;
  std::vector<PaddedVector> vectors;
  EncoderAttentionLayer layer;
};

struct PyEncoderMlp {
  PyEncoderMlp(const PyMatrix& up, Vector up_bias, const PyMatrix& down, Vector down_bias, Vector norm, Vector shift, float eps)
      : keep_up(up), keep_down(down),
        vectors{{up_bias, up.matrix.rows, "encoder mlp: up_bias has the wrong size"},
                {down_bias, down.matrix.rows, "encoder mlp: down_bias has the wrong size"},
                {norm, down.matrix.rows, "encoder mlp: norm has the wrong size"},
                {shift, down.matrix.rows, "encoder mlp: shift has the wrong size"}} {
    require(down.matrix.cols == up.matrix.rows && down.matrix.rows == up.matrix.cols, "encoder mlp: up and down differ in shape");
    require(up.matrix.scheme == down.matrix.scheme, "encoder mlp: up and down differ in scheme");
    layer = {up.matrix, down.matrix, vectors[0].data(), vectors[1].data(), vectors[2].data(), vectors[3].data(), eps};
  }
  PyEncoderMlp(const PyEncoderMlp&) = delete;
  PyMatrix keep_up, keep_down;
  std::vector<PaddedVector> vectors;
  EncoderMlpLayer layer;
};

class PyEncoder {
 public:
  PyEncoder(const PyMatrix& embed, Floats positions, Vector norm, Vector shift, nb::list layers, float eps,
            const std::string& pooling)
      : keep_layers_(layers), keep_positions_(positions), embed_(embed), norm_(norm, embed.matrix.cols, "encoder: norm has the wrong size"),
        shift_(shift, embed.matrix.cols, "encoder: shift has the wrong size") {
    int hidden = embed.matrix.cols;
    require(nb::len(layers) > 0 && nb::len(layers) % 2 == 0, "encoder: layers must alternate attention and MLP");
    for (size_t i = 0; i < nb::len(layers); i += 2) {
      require(nb::isinstance<PyEncoderAttention>(layers[i]) && nb::isinstance<PyEncoderMlp>(layers[i + 1]),
              "encoder: layers must alternate attention and MLP");
      const EncoderAttentionLayer& a = nb::cast<const PyEncoderAttention&>(layers[i]).layer;
      const EncoderMlpLayer& p = nb::cast<const PyEncoderMlp&>(layers[i + 1]).layer;
      const EncoderBlock first = blocks_.empty() ? EncoderBlock{&a, &p} : blocks_[0];
      require(a.qkv.cols == hidden && p.up.cols == hidden, "encoder: a layer has another hidden size");
      require(a.heads == first.attention->heads && p.up.rows == first.mlp->up.rows && a.qkv.scheme == first.attention->qkv.scheme &&
                  p.up.scheme == a.qkv.scheme,
              "encoder: layers differ in heads, width or scheme");
      blocks_.push_back({&a, &p});
    }
    require(int(positions.shape(1)) == hidden, "encoder: positions must be [max_positions, hidden]");
    if (pooling != "mean" && pooling != "cls") fail("encoder: pooling must be mean or cls, not '" + pooling + "'");
    model_ = {embed.matrix, positions.data(), norm_.data(), shift_.data(), blocks_.data(), int(blocks_.size()), hidden,
              int(positions.shape(0)), eps, pooling == "mean" ? kMeanPooling : kFirstPooling};
  }
  PyEncoder(const PyEncoder&) = delete;

  void forward(Ints tokens, Ints seq_starts, std::optional<Array<float, nb::ndim<2>>> pooled,
               std::optional<Array<float, nb::ndim<2>>> hidden) {
    EncoderBatch b = {tokens.data(), seq_starts.data(), int(tokens.size()), int(seq_starts.size()) - 1};
    require(b.seqs > 0 && b.seq_starts[0] == 0 && b.seq_starts[b.seqs] == b.rows, "encoder: seq_starts do not cover the rows");
    for (int s = 0; s < b.seqs; s++)
      require(b.seq_starts[s] < b.seq_starts[s + 1] && b.seq_starts[s + 1] - b.seq_starts[s] <= model_.max_positions &&
                  b.seq_starts[s + 1] <= b.rows,
              "encoder: a sequence is empty, unordered or longer than the positions");
    for (int i = 0; i < b.rows; i++)
      require(b.tokens[i] >= 0 && b.tokens[i] < model_.embed.rows, "encoder: token outside the vocabulary");
    require(!pooled || (int(pooled->shape(0)) == b.seqs && int(pooled->shape(1)) == model_.hidden), "encoder: pooled shape");
    require(!hidden || (int(hidden->shape(0)) == b.rows && int(hidden->shape(1)) == model_.hidden), "encoder: hidden shape");
    EncoderOutputs out = {pooled ? pooled->data() : nullptr, hidden ? hidden->data() : nullptr};
    nb::gil_scoped_release released;
    const KernelTable* table = active_table;
    Workspace workspace = workspace_.reserve(table->encoder_workspace_bytes(model_, b, pool_threads()));
    struct Job {
      const KernelTable* table;
      const EncoderModel& model;
      const EncoderBatch& batch;
      const EncoderOutputs& out;
      Workspace workspace;
    } job = {table, model_, b, out, workspace};
    pool_run(
        [](void* argument, Team* team, int tid) {
          const Job& j = *static_cast<Job*>(argument);
          j.table->encode(j.model, j.batch, j.out, j.workspace, team, tid);
        },
        &job);
  }

  int hidden() const { return model_.hidden; }
  size_t workspace_bytes() const { return workspace_.bytes(); }

 private:
  nb::list keep_layers_;
  Floats keep_positions_;
  PyMatrix embed_;
  PaddedVector norm_, shift_;
  std::vector<EncoderBlock> blocks_;
  EncoderModel model_;
  Scratch workspace_;
};

inline void bind_encoder(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<PyEncoderAttention>(m, "EncoderAttention")
      .def(nb::init<const PyMatrix&, Vector, const PyMatrix&, Vector, Vector, Vector, int, float>(), "qkv"_a, "qkv_bias"_a, "o"_a,
           "o_bias"_a, "norm"_a, "shift"_a, "num_heads"_a, "eps"_a);
  nb::class_<PyEncoderMlp>(m, "EncoderMlp")
      .def(nb::init<const PyMatrix&, Vector, const PyMatrix&, Vector, Vector, Vector, float>(), "up"_a, "up_bias"_a, "down"_a,
           "down_bias"_a, "norm"_a, "shift"_a, "eps"_a);
  nb::class_<PyEncoder>(m, "Encoder")
      .def(nb::init<const PyMatrix&, Floats, Vector, Vector, nb::list, float, const std::string&>(), "embed"_a, "positions"_a,
           "norm"_a, "shift"_a, "layers"_a, "eps"_a, "pooling"_a)
      .def_prop_ro("hidden_size", &PyEncoder::hidden)
      .def_prop_ro("workspace_bytes", &PyEncoder::workspace_bytes)
      .def("forward", &PyEncoder::forward, "tokens"_a, "seq_starts"_a, "pooled"_a = nb::none(), "hidden"_a = nb::none());
}

}  // namespace deepwell
