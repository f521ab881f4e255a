export const en = {
  lead: "Until then the terminal runs batches.",
};
