"""Images from text: a small rectified-flow transformer; their decoding in a confined process, labels and safety."""
