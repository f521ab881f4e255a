export const en = {
  lead: "Until then the terminal shows the jobs.",
};
