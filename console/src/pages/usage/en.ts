export const en = {
  lead: "Until then the metrics show the usage.",
};
